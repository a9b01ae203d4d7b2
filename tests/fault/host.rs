//! What the host itself may do.
