//! What a decision costs with a hundred rules: of a statement that is cached by its text, and of one whose shape is; and
//! what one costs that is seen for the first time, beside its parse alone.

#![expect(missing_docs, reason = "criterion's macro makes a public function")]

use std::hint::black_box;
use std::sync::Arc;

use criterion::{Criterion, criterion_group, criterion_main};
use regex::Regex;
use trunkline::routing::rules::{Action, Conditions, NamePattern, Pattern, Rule, Sender, Share};
use trunkline::routing::{Catalog, Defaults, Facts, InTransaction, Reads, RuleSet, Standing, weigh};
use trunkline::sql::{Cache, Kind, ParseSettings, PreparedNames, classify_bytes};

/// 250 bytes.
const TEXT: &str = "SELECT o.id, o.made, o.total, c.name, c.email FROM shop.orders AS o JOIN shop.customers AS c ON c.id = \
                    o.customer WHERE o.customer = 4242 AND o.status IN ('open', 'paid') AND o.total > 99.95 AND c.country = \
                    'NL' ORDER BY o.made DESC LIMIT 10 OFFSET 5";
const _: () = assert!(TEXT.len() == 250);

/// Of statements that take turns.
const SHAPES: usize = 1000;

fn decisions(criterion: &mut Criterion) {
    let settings = ParseSettings::default();
    let prepared = PreparedNames::default();
    criterion.bench_function("pg_query's parse alone", |bencher| {
        bencher.iter(|| pg_query::parse(black_box(TEXT), pg_query::ParserOptions::default()))
    });
    criterion
        .bench_function("not cached", |bencher| bencher.iter(|| classify_bytes(black_box(TEXT.as_bytes()), &settings)));
    for (kind, rules) in
        [("none", RuleSet::default()), ("100", hundred(Text::Seldom)), ("100 on texts", hundred(Text::Often))]
    {
        let sender = Sender { user: "app_shop", database: "shop", application_name: "web-7", ..Sender::default() };
        let standing = rules.standing(&sender);
        let mut cache = Cache::new(32 << 20);
        criterion.bench_function(&format!("cached text, {kind} rules"), |bencher| {
            bencher.iter(|| {
                let statement = cache.get(black_box(TEXT).as_bytes(), &settings);
                weigh(&statement, TEXT, &facts(&standing, &prepared), &rules).intent.reason()
            });
        });
        let texts: Vec<String> = (1000..9000).map(|customer| TEXT.replace("4242", &customer.to_string())).collect();
        let mut next = texts.iter().cycle();
        criterion.bench_function(&format!("cached shape, {kind} rules"), |bencher| {
            bencher.iter(|| {
                let text = next.next().map_or(TEXT, |text| text);
                let statement = cache.get(black_box(text).as_bytes(), &settings);
                weigh(&statement, text, &facts(&standing, &prepared), &rules).intent.reason()
            });
        });
    }
    // More shapes, taking turns, than are known at a glance: each text is read to its end and its shape looked up.
    let mut cache = Cache::new(32 << 20);
    let text_of =
        |shape: usize, customer: &str| TEXT.replace("email", &format!("f{shape:04}")).replace("4242", customer);
    for shape in 0..SHAPES {
        cache.get(text_of(shape, "4242").as_bytes(), &settings);
    }
    let texts: Vec<String> = (1000..1008)
        .flat_map(|customer: usize| (0..SHAPES).map(move |shape| text_of(shape, &customer.to_string())))
        .collect();
    let mut next = texts.iter().cycle();
    criterion.bench_function("cached shape, one of a thousand", |bencher| {
        bencher.iter(|| cache.get(black_box(next.next().map_or(TEXT, |text| text)).as_bytes(), &settings));
    });
}

fn facts<'a>(standing: &'a Standing, prepared: &'a PreparedNames) -> Facts<'a> {
    Facts {
        standing,
        minute: 0,
        draw: 0,
        heeds_hints: true,
        reads: Reads::Replicas,
        transaction: InTransaction::No,
        is_within: false,
        optimistic: false,
        defaults: Defaults::default(),
        prepared,
        catalog: Catalog::NotAsked,
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Text {
    /// Rules on texts are also on something else, which does not hold.
    Seldom,
    /// Every tenth rule matches in all but its text.
    Often,
}

/// Rules of every sort; none of them matches but the last.
fn hundred(text: Text) -> RuleSet {
    let rule = |number: usize| {
        let mut when = Conditions::default();
        match number % 10 {
            0 => when.text = Some(Regex::new(&format!("(?i)from +report_{number}")).expect("a pattern")),
            1 | 2 => when.users = vec![pattern(&format!("user_{number}*"))],
            3 | 4 => when.application_names = vec![pattern(&format!("*-{number}"))],
            5 => when.functions = vec![name(&format!("f_{number}"))],
            _ => when.tables = vec![name(&format!("t_{number}*"))],
        }
        if text == Text::Seldom && when.text.is_some() {
            when.kinds = vec![Kind::Copy];
        }
        if number == 99 {
            when = Conditions { kinds: vec![Kind::Select], ..Conditions::default() };
        }
        Rule {
            name: format!("rule-{number}").into(),
            when,
            action: Action::Primary,
            share: Share::ALL,
            is_shadow: false,
            logs: false,
            counts: Arc::default(),
        }
    };
    RuleSet::new((0..100).map(rule).collect(), Vec::new(), 1 + u64::from(text == Text::Often))
}

fn pattern(text: &str) -> Pattern {
    Pattern(text.into())
}

fn name(text: &str) -> NamePattern {
    NamePattern { schema: None, name: pattern(text) }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
