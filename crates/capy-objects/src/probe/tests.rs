//! The probe on honest stores and on stores that lie.
