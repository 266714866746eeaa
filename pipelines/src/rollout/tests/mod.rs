//! The planner in a small model of a cluster: rows of lifecycle.md section 3, crashes, random histories.

mod beside;
mod crashes;
mod drive;
mod ends;
mod faults;
mod foreign;
mod histories;
mod objects;
mod outage;
mod server;
mod violations;
mod walk;
mod world;
