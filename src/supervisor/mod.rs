//! The life of a service, from its start to the moment when nothing of it is left.
//!
//! Theory of operation. [`state`] is a pure machine: a state and an event give the next state and what to do.
//! [`task`] does it, feeds the events (the child's exit, a sign of life, a request to stop, a timer, an empty process
//! group) and logs what they mean. [`periodic`] runs a service again and again that is meant to end. [`group`] starts
//! several services one after the other and, at a signal, stops them in reverse. [`output`] carries what a service
//! prints. None of them knows what the service is.
//!
//! A request to stop goes from [`group`] to [`task`] as a [`task::StopRequest`], becomes [`state::Event::StopRequested`],
//! and reaches the child by [`state::Action::Signal`].

pub mod group;
pub mod output;
pub mod periodic;
pub mod state;
pub mod task;
mod transition;
