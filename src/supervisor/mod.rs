//! The life of a service, from its start to the moment when nothing of it is left.
//!
//! Theory of operation. [`state`] is a pure machine: a state and an event give the next state and what to do.
//! [`task`] does it and feeds the events: the child's exit, a request to stop, a timer, an empty process group.
//! [`output`] carries what the service prints. None of them knows what the service is.

pub mod output;
pub mod state;
pub mod task;
