//! The life cycle of a service, from its start until no process of it is left.
//!
//! Theory of operation. [`state`] is a pure state machine: a state and an event give the next state and actions.
//! [`task`] executes the actions, feeds the events (exit of the child, successful probe, stop request, timer, empty
//! process group) and logs transitions. [`interval`] runs a service repeatedly at an interval. [`group`] starts several
//! services in order and, at a signal, stops them in reverse order. [`output`] forwards the output of a service. None
//! of them depends on the program of the service.
//!
//! A stop request goes from [`group`] to [`task`] as a [`task::StopRequest`], becomes [`state::ServiceEvent::StopRequested`],
//! and reaches the child by [`state::ServiceAction::Signal`].

pub mod group;
pub mod interval;
pub mod output;
pub mod state;
pub mod task;
mod transition;
