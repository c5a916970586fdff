//! Network namespaces, links and routes.
