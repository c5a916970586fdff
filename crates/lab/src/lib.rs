//! An embedded Kubernetes API and pods as network namespaces, on one machine.
#![forbid(unsafe_code)]

pub mod api;
mod controllers;
pub mod demo;
pub mod runtime;
mod store;
