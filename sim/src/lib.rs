//! Runs whole clusters in one process: the shipped code on a simulated clock, network and disk, one seed deciding all.

pub mod dice;
pub mod disk;
pub mod kernel;
pub mod net;
pub mod world;
