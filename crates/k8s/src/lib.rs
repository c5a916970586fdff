//! Kubernetes objects and YAML to and from the policy model.
