//! Delivery beyond the plain call: calls that were given up and are sent again.

mod dead;
