//! What SHOW answers: a file for each kind of thing.

mod clients;
mod decisions;
mod program;
mod servers;
mod stats;
mod timestamp;
mod topology;

use std::sync::Arc;

use super::Desk;
use super::command::Subject;
use super::table::Table;

/// What there is to be seen of a subject.
pub(super) async fn show(subject: Subject, desk: &Arc<Desk>) -> Table {
    let server = desk.in_force.load_full();
    match subject {
        Subject::Help => program::help(),
        Subject::Version => program::version(),
        Subject::State => program::state(&server, &desk.others),
        Subject::Config => program::config(&desk.settings.load()),
        Subject::Mem => program::memory(),
        Subject::Lists => program::lists(&server, &desk.fleet.report().await),
        Subject::Clusters => topology::clusters(&server),
        Subject::Nodes => topology::nodes(&server),
        Subject::Routes => topology::routes(&server),
        Subject::Databases => servers::databases(&server, &desk.fleet.report().await),
        Subject::Users => servers::users(&server, &desk.fleet.report().await),
        Subject::Servers => servers::servers(&server, &desk.fleet.report().await),
        Subject::Pools => clients::pools(&server, &desk.fleet.report().await),
        Subject::Clients => clients::clients(&desk.fleet.report().await),
        Subject::Stats => stats::stats(desk).await,
        Subject::StatsTotals => stats::totals(desk).await,
        Subject::StatsAverages => stats::averages(desk).await,
        Subject::Totals => stats::over_all(desk).await,
        Subject::Rules => decisions::rules(&server),
        Subject::Reasons => decisions::reasons(),
        Subject::Shapes => decisions::shapes(&desk.fleet.report().await),
    }
}
