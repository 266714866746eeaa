//! Import of Google's classic Binary Authorization policies and attestors.
