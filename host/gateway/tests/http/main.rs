//! The gateway over real sockets, each test with its own redis-server and a host of a few lines.

mod auth;
mod batch;
mod calling;
mod ending;
mod events;
mod fanout;
mod host;
mod limits;
mod looking;
mod stage;
mod tls;
