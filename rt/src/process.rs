//! The end of a node.

/// Ends the process with `status`. In a simulation it ends the node that the calling thread belongs to.
pub fn exit(status: i32) -> ! {
    #[cfg(feature = "sim")]
    if let Some(backend) = crate::backend::current() {
        backend.exit(status)
    }
    os::exit(status)
}

/// Raises the process's limit of open files to what it may have, and returns the limit that then holds.
pub fn raise_file_limit() -> u64 {
    redirect!(backend => backend.file_limit());
    os::raise_file_limit()
}

/// The limit of open files that holds now.
pub fn file_limit() -> u64 {
    redirect!(backend => backend.file_limit());
    os::file_limit().0
}

/// From now on a write beyond the limit of a file's size is an error of that write, as one on a full disk is, and doesn't
/// kill the process. For programs to call, at their start.
pub fn outlive_file_size_limit() {
    redirect!(backend => drop(backend));
    os::outlive_file_size_limit();
}

mod os {
    #![expect(unsafe_code, clippy::disallowed_methods, reason = "the operating system's backend")]

    pub(crate) fn exit(status: i32) -> ! {
        std::process::exit(status)
    }

    pub(crate) fn outlive_file_size_limit() {
        // SAFETY: to ignore a signal installs no handler; the number is a signal's, so it can't fail.
        unsafe { libc::signal(libc::SIGXFSZ, libc::SIG_IGN) };
    }

    /// (soft, hard)
    pub(crate) fn file_limit() -> (u64, u64) {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: getrlimit writes one rlimit to the pointer, which points to one.
        let status = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
        if status == 0 { (limit.rlim_cur, limit.rlim_max) } else { (1024, 1024) }
    }

    pub(crate) fn raise_file_limit() -> u64 {
        let (soft, hard) = file_limit();
        let wanted = libc::rlimit { rlim_cur: hard, rlim_max: hard };
        // SAFETY: setrlimit reads one rlimit from the pointer, which points to one.
        let status = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) };
        if status == 0 { hard } else { soft }
    }
}
