//! The kernel program, its loader and the applier.
