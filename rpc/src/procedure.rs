//! Typed procedures: number, arguments and result in one constant, so that a handler and its callers can't disagree.
//!
//! A handler is a plain function of its arguments that returns a status and one whole result. A status without a
//! result can't be written: the lab's C++ clients abort on a reply whose result is missing.

use std::marker::PhantomData;

use crate::marshall::{Marshal, Unmarshal};

/// A procedure of the wire: its number, the tuple of its arguments, and its result.
pub struct Procedure<A, R> {
    /// The procedure number in the header.
    pub number: u32,
    types: PhantomData<fn(A) -> R>,
}

impl<A, R> Procedure<A, R> {
    /// The procedure with this number.
    pub const fn new(number: u32) -> Self {
        Procedure { number, types: PhantomData }
    }
}

impl<A, R> Clone for Procedure<A, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<A, R> Copy for Procedure<A, R> {}

/// What a handler returns beside its result: 0 is success, the others are the protocol's. Never negative: negative
/// return values on the wire belong to the transport ([`crate::CallError`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Status(u16);

impl Status {
    /// Success, in every protocol.
    pub const OK: Status = Status(0);

    /// The status with this number.
    pub const fn new(number: u16) -> Self {
        Status(number)
    }

    /// The number on the wire.
    pub const fn number(self) -> i32 {
        self.0 as i32
    }
}

/// A function that serves a procedure. Implemented for every `Fn(A1, .., An) -> (S, R)` with n <= 8, `S: Into<Status>`.
pub trait Handler<A, R>: Send + Sync + 'static {
    /// Calls the function.
    fn handle(&self, args: A) -> (Status, R);
}

macro_rules! handlers {
    ($(($($name:ident),*))*) => {$(
        impl<Func, Stat, Res, $($name: Unmarshal),*> Handler<($($name,)*), Res> for Func
        where
            Func: Fn($($name),*) -> (Stat, Res) + Send + Sync + 'static,
            Stat: Into<Status>,
            Res: Marshal,
        {
            #[allow(non_snake_case, reason = "one macro for all lengths")]
            fn handle(&self, ($($name,)*): ($($name,)*)) -> (Status, Res) {
                let (status, result) = self($($name),*);
                (status.into(), result)
            }
        }
    )*};
}

handlers! { () (A) (A, B) (A, B, C) (A, B, C, D) (A, B, C, D, E) (A, B, C, D, E, F) (A, B, C, D, E, F, G)
(A, B, C, D, E, F, G, H) }

/// Defines a protocol's status values: an enum whose numbers are those on the wire.
#[macro_export]
macro_rules! wire_status {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $number:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u16)]
        pub enum $name { $($(#[$variant_meta])* $variant = $number),* }

        impl From<$name> for $crate::Status {
            fn from(status: $name) -> Self {
                $crate::Status::new(status as u16)
            }
        }

        impl $name {
            /// The status with this number on the wire, if there is one.
            pub fn from_wire(number: i32) -> Option<Self> {
                match number {
                    $($number => Some($name::$variant),)*
                    _ => None,
                }
            }
        }
    };
}
