//! Which places are asked next, and who is found at them. Until nobody is left to ask: [`Search::next`], the question, and
//! [`Search::answered`]; then Patroni's REST APIs, and the same again for what they list; then [`Search::conclude`].

use std::collections::BTreeSet;

use super::finding::{Absent, Finding, Follower, Node, Role, Source, Unfound};
use super::place::Place;

/// A search under way.
#[derive(Debug)]
pub(super) struct Search {
    /// The ports that the URL names: replicas may listen there.
    ports: BTreeSet<u16>,
    asked: Vec<Asked>,
    nodes: Vec<Node>,
    patroni: Vec<Api>,
}

/// A place that was asked, or is to be.
#[derive(Debug)]
struct Asked {
    place: Place,
    source: Source,
    outcome: Option<Outcome>,
}

/// Who is there.
#[derive(Debug)]
enum Outcome {
    /// The node of this index.
    Node(usize),
    /// No node of this cluster, because of this.
    Nobody(String),
}

/// A REST API of Patroni, and where the nodes are that it lists.
#[derive(Debug)]
struct Api {
    place: Place,
    listed: Vec<Place>,
}

impl Search {
    /// Begins with what the URL names.
    pub(super) fn new(named: &[Place]) -> Self {
        let ports = named.iter().map(|place| place.port).collect();
        let mut search = Self { ports, asked: Vec::new(), nodes: Vec::new(), patroni: Vec::new() };
        named.iter().for_each(|place| search.look_at(place.clone(), Source::Url));
        search
    }

    /// Who is asked next.
    pub(super) fn next(&self) -> Option<&Place> {
        self.asked.iter().find(|asked| asked.outcome.is_none()).map(|asked| &asked.place)
    }

    /// What has come of that.
    pub(super) fn answered(&mut self, place: &Place, answer: Result<Node, String>) {
        let source = self.asked.iter().find(|asked| asked.place == *place).map(|asked| asked.source.clone());
        let is_guessed = matches!(source, Some(Source::FollowerOf(_)));
        let outcome = answer.map_or_else(Outcome::Nobody, |node| self.admit(node, is_guessed));
        if let Some(asked) = self.asked.iter_mut().find(|asked| asked.place == *place) {
            asked.outcome = Some(outcome);
        }
    }

    /// Where Patroni may answer: on the machines of the nodes.
    pub(super) fn patronis(&self) -> BTreeSet<Place> {
        let hosts = self.nodes.iter().map(|node| &node.place).filter(|place| !place.is_socket());
        hosts.map(|place| Place { host: place.host.clone(), port: PATRONI_PORT }).collect()
    }

    /// A Patroni has answered, and lists these nodes.
    pub(super) fn patroni_answered(&mut self, place: Place, listed: Vec<Place>) {
        listed.iter().for_each(|node| self.look_at(node.clone(), Source::Patroni(place.clone())));
        self.patroni.push(Api { place, listed });
    }

    /// Why nobody has answered at the places that the URL names; None: somebody has.
    pub(super) fn failure(&self) -> Option<String> {
        let failures = self.absent();
        let words = failures.iter().map(|absent| format!("{}: {}", absent.place, absent.why));
        self.nodes.is_empty().then(|| words.collect::<Vec<_>>().join("; "))
    }

    /// What was found.
    pub(super) fn conclude(self) -> Finding {
        let listed =
            |api: &Api| -> BTreeSet<usize> { api.listed.iter().filter_map(|place| self.node_at(place)).collect() };
        // What Patroni lists may be another cluster of the same machine, or a standby cluster, which has a Patroni of its own.
        let primary = self.nodes.iter().position(Node::is_primary);
        let lists_ours =
            |nodes: &BTreeSet<usize>| primary.map_or(!nodes.is_empty(), |primary| nodes.contains(&primary));
        let ours: Vec<&Api> = self.patroni.iter().filter(|api| lists_ours(&listed(api))).collect();
        let patroni_lists_all = ours.iter().any(|api| listed(api).len() == self.nodes.len());
        let patroni: Vec<Place> = ours.into_iter().map(|api| api.place.clone()).collect();
        let is_ours = |absent: &Absent| !matches!(&absent.source, Source::Patroni(api) if !patroni.contains(api));
        let (absent, unfound) = (self.absent().into_iter().filter(is_ours).collect(), self.unfound());
        let mut nodes: Vec<Node> = self.nodes.iter().map(|node| self.with_known_upstream(node)).collect();
        nodes.sort_by_key(|node| !node.is_primary());
        Finding { nodes, absent, unfound, patroni, patroni_lists_all }
    }

    fn look_at(&mut self, place: Place, source: Source) {
        if self.asked.iter().any(|asked| asked.place == place) {
            return;
        }
        let is_too_many = self.asked.len() >= MOST_PLACES;
        let outcome = is_too_many.then(|| Outcome::Nobody(format!("not asked after {MOST_PLACES} others")));
        self.asked.push(Asked { place, source, outcome });
    }

    /// A node has answered, one that is known already perhaps. At a place that was guessed at, a replica was looked for.
    fn admit(&mut self, node: Node, is_guessed: bool) -> Outcome {
        if let Some(known) = self.nodes.iter().position(|known| known.is_same(&node)) {
            if let Some(known) = self.nodes.get_mut(known) {
                known.also.push(node.place);
            }
            return Outcome::Node(known);
        }
        if self.nodes.first().is_some_and(|first| first.system != node.system) {
            return Outcome::Nobody("it is another cluster's, for its system identifier is another one".to_owned());
        }
        if is_guessed && node.is_primary() && self.nodes.iter().any(Node::is_primary) {
            return Outcome::Nobody("it is a primary, too: a copy that was promoted, perhaps".to_owned());
        }
        if let Role::Replica { upstream, .. } = &node.role {
            upstream.iter().for_each(|place| self.look_at(place.clone(), Source::UpstreamOf(node.place.clone())));
        }
        for follower in &node.followers {
            self.look_for(follower, &node);
        }
        self.nodes.push(node);
        Outcome::Node(self.nodes.len() - 1)
    }

    /// A node does not tell where its replicas listen: at the same port as itself, most likely.
    fn look_for(&mut self, follower: &Follower, upstream: &Node) {
        let Some(host) = host_of(follower, upstream) else { return };
        let mut ports = vec![upstream.place.port, upstream.port];
        ports.extend(&self.ports);
        for place in ports.into_iter().filter_map(|port| Place::new(&host, port)) {
            self.look_at(place, Source::FollowerOf(upstream.place.clone()));
        }
    }

    /// Its upstream may have another address for it than for us.
    fn with_known_upstream(&self, node: &Node) -> Node {
        let mut node = node.clone();
        if let Role::Replica { upstream, .. } = &mut node.role {
            for place in upstream {
                if let Some(known) = self.node_at(place).and_then(|at| self.nodes.get(at)) {
                    *place = known.place.clone();
                }
            }
        }
        node
    }

    fn absent(&self) -> Vec<Absent> {
        let absent = self.asked.iter().filter_map(|asked| match (&asked.outcome, &asked.source) {
            // What came of it is told with the replica that was looked for.
            (_, Source::FollowerOf(_)) | (Some(Outcome::Node(_)) | None, _) => None,
            (Some(Outcome::Nobody(why)), source) => {
                Some(Absent { place: asked.place.clone(), source: source.clone(), why: why.clone() })
            }
        });
        absent.collect()
    }

    fn unfound(&self) -> Vec<Unfound> {
        self.nodes.iter().enumerate().flat_map(|(at, node)| self.unfound_of(at, node)).collect()
    }

    /// Of the replicas that stream from this node, by their hosts.
    fn unfound_of(&self, at: usize, node: &Node) -> Vec<Unfound> {
        let hosts: BTreeSet<Option<String>> = node.followers.iter().map(|follower| host_of(follower, node)).collect();
        let of_host = |host: Option<String>| {
            let followers = node.followers.iter().filter(|follower| host_of(follower, node) == host);
            let names = followers.map(|follower| follower.name.clone()).collect();
            let found = self.followers_at(host.as_deref(), at);
            let tried = host.as_deref().map(|host| self.tried_at(host)).unwrap_or_default();
            Unfound { upstream: node.place.clone(), names, host, found, tried }
        };
        hosts.into_iter().map(of_host).filter(|unfound| unfound.found < unfound.names.len()).collect()
    }

    /// How many replicas were found on a host, or anywhere, that may stream from this node.
    fn followers_at(&self, host: Option<&str>, upstream: usize) -> usize {
        let is_there = |asked: &&Asked| host.is_none_or(|host| asked.place.host == host);
        let nodes: BTreeSet<usize> =
            self.asked.iter().filter(is_there).filter_map(|asked| asked.node()).filter(|at| *at != upstream).collect();
        nodes
            .into_iter()
            .filter(|at| self.nodes.get(*at).is_some_and(|node| self.may_stream_from(node, upstream)))
            .count()
    }

    /// Unless it says that it streams from another one.
    fn may_stream_from(&self, node: &Node, upstream: usize) -> bool {
        match &node.role {
            Role::Primary => false,
            Role::Replica { upstream: told, .. } => {
                told.iter().filter_map(|place| self.node_at(place)).all(|at| at == upstream)
            }
        }
    }

    fn tried_at(&self, host: &str) -> Vec<(u16, String)> {
        let there = self.asked.iter().filter(|asked| asked.place.host == host);
        let who = there.filter_map(|asked| match asked.outcome.as_ref()? {
            Outcome::Node(at) => Some((asked.place.port, self.nodes.get(*at)?.place.to_string())),
            Outcome::Nobody(why) => Some((asked.place.port, why.clone())),
        });
        who.collect()
    }

    fn node_at(&self, place: &Place) -> Option<usize> {
        self.asked.iter().find(|asked| asked.place == *place)?.node()
    }
}

impl Asked {
    fn node(&self) -> Option<usize> {
        match self.outcome {
            Some(Outcome::Node(at)) => Some(at),
            _ => None,
        }
    }
}

/// The host that a replica is on; None: it may not be seen.
fn host_of(follower: &Follower, upstream: &Node) -> Option<String> {
    if follower.is_hidden {
        return None;
    }
    let own = &upstream.place;
    let told = follower.host.as_deref().and_then(|host| Place::new(host, own.port));
    Some(told.map_or_else(|| own.host.clone(), |place| place.heard_from(own).host))
}

/// Where Patroni listens unless it is told otherwise.
const PATRONI_PORT: u16 = 8008;
/// Far above any real cluster: each that does not answer costs a wait.
const MOST_PLACES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::finding::examples::{follower, place, primary, replica};

    /// Asks until nobody is left; whoever is not among `there` refuses.
    fn asked(search: &mut Search, there: &[(&str, Node)]) -> Vec<String> {
        let mut order = Vec::new();
        while let Some(place) = search.next().cloned() {
            let node = there.iter().find(|(at, _)| *at == place.to_string()).map(|(_, node)| node.clone());
            search.answered(&place, node.ok_or_else(|| "connection refused".to_owned()));
            order.push(place.to_string());
        }
        order
    }

    fn addresses(finding: &Finding) -> Vec<String> {
        finding.nodes.iter().map(|node| node.place.to_string()).collect()
    }

    #[test]
    fn from_the_primary_replicas_are_found_where_they_stream_from() {
        let followers = vec![follower("b", "10.0.0.2"), follower("c", "10.0.0.3")];
        let there = [
            ("10.0.0.1:5432", primary("10.0.0.1:5432", followers)),
            ("10.0.0.2:5432", replica("10.0.0.2:5432", "10.0.0.1:5432")),
        ];
        let mut search = Search::new(&[place("10.0.0.1:5432")]);
        assert_eq!(asked(&mut search, &there), ["10.0.0.1:5432", "10.0.0.2:5432", "10.0.0.3:5432"]);
        let finding = search.conclude();
        assert_eq!(addresses(&finding), ["10.0.0.1:5432", "10.0.0.2:5432"]);
        let [unfound] = &*finding.unfound else { panic!("{finding:?}") };
        assert_eq!((&*unfound.names, unfound.host.as_deref()), (&["c".to_owned()][..], Some("10.0.0.3")));
        assert_eq!(unfound.tried, [(5432, "connection refused".to_owned())]);
        assert!(finding.absent.is_empty());
    }

    #[test]
    fn from_a_replica_the_primary_is_found_and_by_it_the_others() {
        let followers = vec![follower("b", "10.0.0.2"), follower("c", "10.0.0.3")];
        let there = [
            ("db2:5433", replica("db2:5433", "10.0.0.1:5432")),
            ("10.0.0.1:5432", primary("10.0.0.1:5432", followers)),
            ("10.0.0.2:5433", replica("db2:5433", "10.0.0.1:5432")),
            ("10.0.0.3:5433", replica("10.0.0.3:5433", "db1:5432")),
            ("db1:5432", primary("10.0.0.1:5432", Vec::new())),
        ];
        let mut search = Search::new(&[place("db2:5433")]);
        asked(&mut search, &there);
        let finding = search.conclude();
        assert_eq!(addresses(&finding), ["10.0.0.1:5432", "db2:5433", "10.0.0.3:5433"]);
        let Role::Replica { upstream, .. } = &finding.nodes[2].role else { panic!("{finding:?}") };
        assert_eq!(*upstream, [place("10.0.0.1:5432")]);
        assert_eq!((finding.absent.len(), finding.unfound.len()), (0, 0), "{finding:?}");
    }

    #[test]
    fn a_promoted_copy_where_a_replica_was_looked_for_is_no_node() {
        let mut copy = primary("10.0.0.2:5432", Vec::new());
        copy.start = crate::topology::PostmasterStart(7);
        let there =
            [("10.0.0.1:5432", primary("10.0.0.1:5432", vec![follower("b", "10.0.0.2")])), ("10.0.0.2:5432", copy)];
        let mut search = Search::new(&[place("10.0.0.1:5432")]);
        asked(&mut search, &there);
        let finding = search.conclude();
        assert_eq!(addresses(&finding), ["10.0.0.1:5432"]);
        let [unfound] = &*finding.unfound else { panic!("{finding:?}") };
        assert!(unfound.tried[0].1.contains("promoted"), "{unfound:?}");
    }

    #[test]
    fn the_patroni_of_a_standby_cluster_is_left_out() {
        let there = [
            ("10.0.0.1:5432", primary("10.0.0.1:5432", Vec::new())),
            ("10.0.0.2:5432", replica("10.0.0.2:5432", "10.0.0.1:5432")),
        ];
        let mut search = Search::new(&[place("10.0.0.1:5432"), place("10.0.0.2:5432")]);
        asked(&mut search, &there);
        search.patroni_answered(place("10.0.0.1:8008"), vec![place("10.0.0.1:5432")]);
        search.patroni_answered(place("10.0.0.2:8008"), vec![place("10.0.0.2:5432")]);
        let finding = search.conclude();
        assert_eq!((finding.patroni, finding.patroni_lists_all), (vec![place("10.0.0.1:8008")], false));
    }

    #[test]
    fn a_node_with_two_addresses_is_one_and_another_cluster_is_none() {
        let mut stranger = primary("10.0.0.9:5432", Vec::new());
        stranger.system.0 += 1;
        let there = [
            ("db1:5432", primary("10.0.0.1:5432", Vec::new())),
            ("10.0.0.1:5432", primary("10.0.0.1:5432", Vec::new())),
            ("10.0.0.9:5432", stranger),
        ];
        let named = ["db1:5432", "10.0.0.1:5432", "10.0.0.9:5432", "10.0.0.8:5432"].map(place);
        let mut search = Search::new(&named);
        asked(&mut search, &there);
        let finding = search.conclude();
        assert_eq!(finding.nodes.len(), 1);
        assert_eq!(finding.nodes[0].also, [place("10.0.0.1:5432")]);
        let why: Vec<&str> = finding.absent.iter().map(|absent| &*absent.why).collect();
        assert!(matches!(why[..], [other, "connection refused"] if other.contains("another cluster")), "{why:?}");
    }

    #[test]
    fn replicas_of_one_machine_are_counted_and_those_on_sockets_are_on_their_upstreams() {
        let mut followers = vec![follower("b", "127.0.0.1"), follower("c", "127.0.0.1")];
        followers.push(Follower { name: "d".to_owned(), host: None, is_hidden: false });
        let there = [("db1:5432", primary("db1:5432", followers)), ("db1:5433", replica("db1:5433", "db1:5432"))];
        let mut search = Search::new(&[place("db1:5432"), place("db1:5433")]);
        asked(&mut search, &there);
        let finding = search.conclude();
        let [unfound] = &*finding.unfound else { panic!("{finding:?}") };
        assert_eq!((unfound.names.len(), unfound.found, unfound.host.as_deref()), (3, 1, Some("db1")));
    }

    #[test]
    fn who_may_not_see_replicas_is_told_that_there_are_some() {
        let hidden = Follower { name: String::new(), host: None, is_hidden: true };
        let there = [("db1:5432", primary("db1:5432", vec![hidden]))];
        let mut search = Search::new(&[place("db1:5432")]);
        assert_eq!(asked(&mut search, &there), ["db1:5432"]);
        let finding = search.conclude();
        assert!(matches!(&*finding.unfound, [Unfound { host: None, found: 0, .. }]), "{finding:?}");
    }

    #[test]
    fn what_a_replica_of_a_replica_says_of_its_upstream_counts() {
        let mut middle = replica("10.0.0.2:5432", "10.0.0.1:5432");
        middle.followers = vec![follower("c", "10.0.0.3")];
        let there = [
            ("10.0.0.1:5432", primary("10.0.0.1:5432", vec![follower("b", "10.0.0.2"), follower("d", "10.0.0.3")])),
            ("10.0.0.2:5432", middle),
            ("10.0.0.3:5432", replica("10.0.0.3:5432", "10.0.0.2:5432")),
        ];
        let mut search = Search::new(&[place("10.0.0.1:5432")]);
        asked(&mut search, &there);
        let finding = search.conclude();
        assert_eq!(finding.nodes.len(), 3);
        let [unfound] = &*finding.unfound else { panic!("{finding:?}") };
        assert_eq!((&*unfound.names, unfound.found), (&["d".to_owned()][..], 0));
    }

    #[test]
    fn a_patroni_counts_where_it_lists_a_node_of_the_cluster() {
        let there = [
            ("10.0.0.1:5432", primary("10.0.0.1:5432", Vec::new())),
            ("10.0.0.2:5432", replica("10.0.0.2:5432", "10.0.0.1:5432")),
        ];
        let mut search = Search::new(&[place("10.0.0.1:5432")]);
        asked(&mut search, &there);
        assert_eq!(search.patronis().into_iter().collect::<Vec<_>>(), [place("10.0.0.1:8008")]);
        search.patroni_answered(place("10.0.0.1:8008"), vec![place("10.0.0.1:5432"), place("10.0.0.2:5432")]);
        search.patroni_answered(place("10.0.0.9:8008"), vec![place("10.0.0.9:5432")]);
        asked(&mut search, &there);
        let finding = search.conclude();
        assert_eq!((finding.nodes.len(), &*finding.patroni), (2, &[place("10.0.0.1:8008")][..]));
        assert!(finding.patroni_lists_all && finding.absent.is_empty());
    }

    #[test]
    fn where_nobody_answers_each_failure_is_told() {
        let mut search = Search::new(&[place("db1:5432"), place("db2:5432")]);
        asked(&mut search, &[]);
        let words = "db1:5432: connection refused; db2:5432: connection refused";
        assert_eq!(search.failure().as_deref(), Some(words));
    }
}
