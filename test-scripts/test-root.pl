#!/usr/bin/perl
# What lock_server does when the operating system refuses it something. Run as root: some checks mount a small file
# system or make system calls fail.
#
#     test-root.pl [--bin DIR]
#
# A server that can't go on says so in one line, `lock_server: ...`, and ends with a status that isn't 0. A check that
# this machine doesn't allow (mounts or ptrace in a container, no strace) is skipped, and the last line says so.

use strict;
use warnings;
use Cwd 'abs_path';
use File::Basename;
use File::Path 'remove_tree';
use File::Temp 'tempdir';
use Getopt::Long;
use IO::Socket::INET;
use lib dirname(abs_path(__FILE__));
use Cluster;

use constant END_SECONDS => 10;    # how long a server may take to give up; its listener retries for 2 s
use constant OPEN_FILES  => 64;    # a limit that a server with few clients can live with

my $bin = dirname(abs_path(__FILE__)) . '/../bin';
my $folder;
my @mounts;
my $logs   = 0;
my %counts = (ok => 0, FAILED => 0, skipped => 0);

# --- the checks; each gives what it saw, or dies with what is wrong ---

my @checks = (
    ['the port is in use', sub {
        my ($port) = draw_ports(1);
        my $holder = listen_on($port);
        return gives_up('in use', new_folder(), "$bin/lock_server", $port, $port);
    }],
    ['the test port is in use', sub {
        my ($port) = draw_ports(1);
        my $holder = listen_on($port + 1);
        return gives_up('in use', new_folder(), "$bin/lock_server", $port, $port);
    }],
    ['the folder is read-only', sub {
        my ($port) = draw_ports(1);
        return gives_up('Read-only file system', mount_tmpfs('ro'), "$bin/lock_server", $port, $port);
    }],
    ['the disk is full at the start', sub {
        my ($port) = draw_ports(1);
        my $full = mount_tmpfs('size=64k');
        fill($full);
        return gives_up('No space left', $full, "$bin/lock_server", $port, $port);
    }],
    # The logs are open; the locks' next page has no room.
    ['the disk fills up under a running server, and has room again', sub {
        my ($port) = draw_ports(1);
        my $small = mount_tmpfs('size=256k');
        my ($server, $log) = start_first_in($small, $port, "$bin/lock_server", $port, $port);
        fill($small);
        my ($tester) = start_in($folder, "$bin/lock_tester", $port);
        my $said = gave_up("rsm-$port.log: can't write it: No space left", $server, $log);
        die "no advice: $said\n" if $said !~ /make room on its disk/;
        my $again = gives_up('make room on its disk', $small, "$bin/lock_server", $port, $port);
        unlink "$small/filler" or die "cannot remove the filler: $!\n";
        # What it had acknowledged is there, so the tester goes on where it was.
        start_in($small, "$bin/lock_server", $port, $port);
        wait_for(60, sub { defined ended($tester) }) or die "lock_tester still runs after 60 s\n";
        die 'lock_tester ended with ' . how_ended(ended($tester)) . "\n" if ended($tester) != 0;
        chomp($said, $again);
        return "$said\n$again\nwith room again, lock_tester passed";
    }],
    # A joiner makes the Paxos log be written first.
    ['the disk fails under a running server', sub {
        need_strace();
        my ($port, $joiner) = draw_ports(2);
        my ($server, $log) = start_first($port, "$bin/lock_server", $port, $port);
        make_syncs_fail($server);
        start_in(new_folder(), "$bin/lock_server", $port, $joiner);
        return gave_up('No space left', $server, $log);
    }],
    ['too few files may be open to start', sub {
        my ($port) = draw_ports(1);
        return gives_up('Too many open files', new_folder(), limited(6, $port));
    }],
    # Connections beyond the limit wait or are refused; they neither stop the server nor keep it busy.
    ['more connections than files may be open', sub {
        my ($port) = draw_ports(1);
        my ($server, $log) = start_first($port, limited(OPEN_FILES, $port));
        my @connections = map { connect_to($port) } 1 .. 2 * OPEN_FILES;
        my $before = cpu_seconds($server);
        nap(2);
        die 'the server has ended with ' . how_ended(ended($server)) . "\n" if defined ended($server);
        my $busy = cpu_seconds($server) - $before;
        die "the server was busy for $busy s of 2 s\n" if $busy > 0.5;
        close $_ for @connections;
        passes_lock_tester($port);
        return "busy for $busy s of 2 s, and serves when they are gone";
    }],
);

# --- servers ---

# Starts a program in a folder, and gives its pid and the file that has its output.
sub start_in {
    my ($where, @command) = @_;
    my $log = "$folder/" . ++$logs . '.log';
    chdir $where or die "cannot enter $where: $!\n";
    my $pid = start_process($log, @command);
    chdir $folder or die "cannot enter $folder: $!\n";
    return ($pid, $log);
}

# Starts the first node of a new service and waits for its first view.
sub start_first {
    my ($port, @command) = @_;
    return start_first_in(new_folder(), $port, @command);
}

sub start_first_in {
    my ($where, $port, @command) = @_;
    my ($server, $log) = start_in($where, @command);
    chdir $where;
    my $serves = wait_for(END_SECONDS, sub { done_records($port) });
    chdir $folder;
    die "no first view within @{[END_SECONDS]} s:\n", tail($log, 5) if !$serves;
    return ($server, $log);
}

sub gives_up {
    my ($reason, $where, @command) = @_;
    return gave_up($reason, start_in($where, @command));
}

# Gives the one line in which the server said why.
sub gave_up {
    my ($reason, $server, $log) = @_;
    my $has_ended = wait_for(END_SECONDS, sub { defined ended($server) });
    die "it still runs after @{[END_SECONDS]} s\n", tail($log, 5) if !$has_ended;
    my $status = ended($server);
    my @lines = grep { /^lock_server: / } lines($log);
    die 'it ended with ' . how_ended($status) . "\n", tail($log, 5) if $status == 0 || $status & 127;
    die "expected one line `lock_server: ... $reason ...`\n", tail($log, 5)
        if @lines != 1 || $lines[0] !~ /\Q$reason\E/;
    return $lines[0];
}

# The command of a first node that may have so many files open.
sub limited {
    my ($files, $port) = @_;
    return ('sh', '-c', 'ulimit -n "$1" && exec "$2" "$3" "$3"', 'sh', $files, "$bin/lock_server", $port);
}

sub passes_lock_tester {
    my ($port) = @_;
    my ($tester, $log) = start_in($folder, "$bin/lock_tester", $port, 1);
    wait_for(60, sub { defined ended($tester) }) or die "lock_tester still runs after 60 s\n", tail($log, 5);
    die 'lock_tester ended with ' . how_ended(ended($tester)) . "\n", tail($log, 5) if ended($tester) != 0;
    return;
}

# --- the operating system ---

sub listen_on {
    my ($port) = @_;
    return IO::Socket::INET->new(LocalPort => $port, Listen => 1, ReuseAddr => 1) || die "cannot listen on $port: $!\n";
}

# Nothing if the listener's queue is full.
sub connect_to {
    my ($port) = @_;
    return IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 0.1) || ();
}

sub new_folder { return tempdir('folder-XXXXXX', DIR => $folder) }

sub mount_tmpfs {
    my ($options) = @_;
    my $point = new_folder();
    system("mount -t tmpfs -o $options tmpfs $point 2>/dev/null") == 0 or die "skipped: this machine allows no mount\n";
    push @mounts, $point;
    return $point;
}

sub fill {
    my ($where) = @_;
    open my $file, '>', "$where/filler" or die "cannot fill $where: $!\n";
    1 while syswrite $file, 'x' x 4096;
    close $file;
    return;
}

sub need_strace {
    return if system('command -v strace >/dev/null') == 0;
    system('(apt-get update && apt-get install -y --no-install-recommends strace) >/dev/null 2>&1') == 0
        or die "skipped: strace is missing and apt-get can't install it\n";
    return;
}

# From now on each fsync and fdatasync of the process fails as on a full disk.
sub make_syncs_fail {
    my ($pid) = @_;
    my $calls = 'fsync,fdatasync';
    my ($strace, $log) = start_in($folder, 'strace', '-f', '-e', "trace=$calls", '-e', "inject=$calls:error=ENOSPC",
        '-o', '/dev/null', '-p', $pid);
    wait_for(END_SECONDS, sub { defined ended($strace) || grep { /attached/ } lines($log) });
    die "skipped: strace can't attach to a process\n" if defined ended($strace);
    return;
}

sub cpu_seconds {
    my ($pid) = @_;
    open my $stat, '<', "/proc/$pid/stat" or return 0;
    my @fields = split ' ', (<$stat> =~ s/.*\) //r);
    return ($fields[11] + $fields[12]) / POSIX::sysconf(POSIX::_SC_CLK_TCK());
}

# --- the run ---

sub run {
    my ($title, $check) = @_;
    my $saw = eval { $check->() };
    my $result = defined $saw ? 'ok' : $@ =~ s/^skipped: // ? 'skipped' : 'FAILED';
    stop_all();
    $counts{$result}++;
    chomp($saw = defined $saw ? $saw : $@);
    $saw =~ s/\n/\n         /g;
    printf "%-8s %s\n         %s\n", $result, $title, $saw;
    return;
}

END {
    my $status = $?;
    stop_all();
    if (defined $folder) {
        chdir '/';
        system('umount', '-l', $_) for @mounts;
        remove_tree($folder);
    }
    $? = $status;
}

$| = 1;
if (!GetOptions('bin=s' => \$bin) || @ARGV) {
    print STDERR "usage: test-root.pl [--bin DIR]\n";
    exit 2;
}
if ($> != 0) {
    print STDERR "test-root.pl: this needs root\n";
    exit 2;
}
if (!-x "$bin/lock_server") {
    print STDERR "test-root.pl: there is no $bin/lock_server: run make first\n";
    exit 2;
}
$bin = abs_path($bin);
$folder = tempdir('yfs-root-XXXXXX', TMPDIR => 1);

run(@$_) for @checks;
print "$counts{ok} checks passed, $counts{FAILED} failed, $counts{skipped} skipped\n";
exit($counts{FAILED} ? 1 : 0);
