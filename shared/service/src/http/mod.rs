//! What every HTTP answer of every service has in common: how a refusal looks, and its codes.

pub mod codes;
mod problem;

pub use problem::{Position, Problem};

/// The answer to a path that is no route.
pub fn no_such_route() -> Problem {
    Problem::new(404, codes::NO_SUCH_ROUTE, "there is no such route")
}

/// The answer to a method that the route does not take.
pub fn method_not_allowed() -> Problem {
    let title = "the route does not take this method";
    Problem::new(405, codes::METHOD_NOT_ALLOWED, title)
}
