//! What the nodes of a run did and said to each other, one format for the simulator and for processes, and pictures of it.
//!
//! A [`Recorder`] takes what the code logs (tracing) as [`Event`]s and writes them to a file; [`Lines`] says what becomes
//! an event. [`read`] puts the files of several processes together, in the order of their times. [`html()`] makes a page of
//! it, [`columns()`] text. What was sent is found again where it was received ([`pairs()`]).
//!
//! # The format
//! A file is lines of JSON, each an event:
//!
//! ```text
//! {"at":1004000,"node":"A","kind":"sent","text":"invoke (3,4) acquire 7","message":"57aab51a.12","peer":"127.0.0.1:22000"}
//! {"at":1004180,"node":"B","kind":"received","text":"invoke (3,4) acquire 7","message":"57aab51a.12","peer":"127.0.0.1:40112"}
//! {"at":1005000,"node":"B","kind":"view","text":"view 3: A B"}
//! ```
//!
//! | field | what |
//! |---|---|
//! | `at` | microseconds: of the machine's monotonic clock, which all its processes share, or of a simulator's true time |
//! | `node` | who: the lane of a picture; empty for what concerns all, as a network that is cut |
//! | `kind` | sent, received, view, primary, execute, transfer, start, crash, fault, note |
//! | `text` | what, for people. Of view and primary it has the view's number, as `view 3` |
//! | `message` | of sent and received: which, the same at both ends and when it is sent again; a reply's ends with ` reply` |
//! | `peer` | of sent and received: the other end's name or address, as far as this end knows it; may be missing |
//!
//! Readers take fields that they don't know for nothing; a line that is no event is an error, but for a last one without
//! its end, which a killed process was writing.
//!
//! # A program's own events
//! A line at INFO or above is a note without more. One with a field `kind` is what that says:
//!
//! ```
//! tracing::info!(kind = "primary", node = "A", "primary in view {}", 3);
//! ```
//!
//! A process that is one node says so ([`Lines::of_process`]); if its libraries call it otherwise, as by its port, that name is
//! an alias ([`Lines::alias`]):
//!
//! ```no_run
//! # use trace::{Lines, Recorder};
//! let lines = Lines::new().of_process("A").alias("21000", "A");
//! let recorder = Recorder::append("A.jsonl".as_ref(), lines, |error| rt::console::complain(error))?;
//! assert!(recorder.install());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! What its procedures ask for a program says by a [`Describer`]; the stack's are known.

pub mod columns;
pub mod event;
pub mod html;
pub mod lines;
pub mod pairs;
pub mod picture;
pub mod reader;
pub mod recorder;
pub mod stack;

pub use columns::columns;
pub use event::{Event, Kind};
pub use html::{Page, html};
pub use lines::Lines;
pub use pairs::{Arrow, Pairs, pairs};
pub use picture::{Picture, window};
pub use reader::{ReadError, merge, read, to_lines, write_page};
pub use recorder::Recorder;
pub use stack::Describer;
