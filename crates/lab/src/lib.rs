//! An embedded Kubernetes API and pods as network namespaces, on one machine.
#![forbid(unsafe_code)]

pub mod addressing;
mod agents;
pub mod api;
pub mod container;
mod controllers;
pub mod demo;
pub mod dns;
mod files;
pub mod helper;
pub mod image;
pub mod kubelet;
pub mod network;
pub mod place;
pub mod process;
pub mod runtime;
pub mod service;
mod store;
mod up;

pub use up::{Options, down, environment, serve, status, up};
