//! What a program needs that starts others, ends them and looks at what they do: torture's, and the lecture's. No node
//! needs any of it.

pub mod os;
pub mod trouble;

pub use os::Port;
pub use trouble::Trouble;
