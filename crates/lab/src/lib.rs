//! An embedded Kubernetes API and pods as network namespaces, on one machine.
#![forbid(unsafe_code)]
#![expect(dead_code, unused_imports, reason = "the controllers that use these follow")]

pub mod api;
mod controllers;
pub mod demo;
pub mod runtime;
mod store;
