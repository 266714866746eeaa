//! Invariants that every plan keeps; run beside the planner in tests and simulations. Never plans.
