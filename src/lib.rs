#![doc = include_str!("README.md")]

pub mod auth;
pub mod broken;
pub mod complaints;
pub mod sql;
pub mod topology;
pub mod units;
pub mod wire;

pub mod balancing;
pub mod catalog;

pub mod routing;

pub mod session;

pub mod config;
pub mod memory;
pub mod metrics;
pub mod net;

pub mod backend;
pub mod systemd;

pub mod catalogs;
pub mod client;
pub mod handover;
pub mod monitor;

pub mod admin;

pub mod drain;
pub mod entrance;
pub mod reload;

pub mod app;
pub mod cli;
pub mod demo;
pub mod explain;
pub mod init;
