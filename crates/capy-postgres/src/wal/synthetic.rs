//! Segments made by hand, for tests.
