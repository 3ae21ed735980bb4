//! yfs-lock: the replicated caching lock server and its caching client (labs 4 and 7).
//!
//! | file | what |
//! |---|---|
//! | lock_protocol | procedures, statuses, names |
//! | lock_table | the replicated state, pure |
//! | hint_board | what the primary has to tell whom and when, pure |
//! | lock_server_cache_rsm | the server: the table on the RSM, revoker and retryer |
//! | cached_lock | one lock as a client sees it, pure |
//! | lock_client_cache_rsm | the caching client: threads, handlers, releaser |

pub mod cached_lock;
pub mod hint_board;
pub mod lock_client_cache_rsm;
pub mod lock_protocol;
pub mod lock_server_cache_rsm;
pub mod lock_table;
