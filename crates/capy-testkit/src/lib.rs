//! Real servers and seeded data for the tests: a development dependency only.

pub mod postgres;
mod seaweed;
mod throttle;

pub use seaweed::S3Server;
pub use throttle::Throttle;
