//! What an expression or query names that PostgreSQL keeps in a catalog as a tree of nodes (pg_node_tree), exactly:
//! functions, operators, relations and types by their identity, also those that no text shows, as of implicit casts.

use super::Oid;

/// What a stored tree names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mentions {
    /// Functions called, also by operators and casts.
    pub functions: Vec<Oid>,
    /// Operators used, also to sort and to group.
    pub operators: Vec<Oid>,
    /// Relations read.
    pub relations: Vec<Oid>,
    /// Types that values are made into.
    pub types: Vec<Oid>,
    /// Types whose values are compared without an operator being named.
    pub compared: Vec<Oid>,
    /// What may be the names of settings asked for: the constant that is a call's first argument, with the function called.
    pub constants: Vec<(Oid, Box<str>)>,
    /// All other texts in it that could be such names.
    pub texts: Vec<Box<str>>,
    /// Functions that are called somewhere without such a constant as their first argument.
    pub computed: Vec<Oid>,
    /// Rows are locked.
    pub locks_rows: bool,
    /// A sequence is asked for its next value.
    pub takes_value: bool,
    /// It is no SELECT, or holds one that is none.
    pub writes: bool,
}

impl Mentions {
    /// Reads a tree. A name in it that looks like a field only adds what is not there.
    pub fn of(tree: &str) -> Self {
        let mut mentions = Self::default();
        let mut field = "";
        let mut constant = Constant::default();
        // Whose arguments are to come, and whose first one is the constant being read.
        let (mut called, mut named): (Option<Oid>, Option<Oid>) = (None, None);
        for token in tree.split([' ', '\n', '\t', '(', ')', '{', '}']).filter(|token| !token.is_empty()) {
            if let Some(name) = token.strip_prefix(':') {
                if field == "constvalue" {
                    match (named.take(), constant.take()) {
                        (Some(function), Some(text)) => mentions.constants.push((function, text)),
                        (None, Some(text)) => mentions.texts.push(text),
                        (function, None) => mentions.computed.extend(function),
                    }
                }
                field = name;
            } else if field == "constvalue" {
                constant.token(token);
            } else {
                match field {
                    "funcid" => called = token.parse().ok(),
                    "args" if token == "CONST" => named = called.take(),
                    "args" => mentions.computed.extend(called.take()),
                    "opfuncid" => mentions.computed.extend(token.parse::<Oid>()),
                    _ => {}
                }
                mentions.value(field, token);
            }
        }
        mentions
    }

    fn value(&mut self, field: &str, token: &str) {
        self.locks_rows |= token == "ROWMARKCLAUSE" || (field == "hasForUpdate" && token == "true");
        self.writes |= field == "commandType" && token != SELECT;
        let Some(oid) = token.parse().ok().filter(|oid| *oid != 0) else { return };
        let list = match field {
            "funcid" | "opfuncid" | "aggfnoid" | "winfnoid" => &mut self.functions,
            "opno" | "opnos" | "eqop" | "sortop" => &mut self.operators,
            "relid" => &mut self.relations,
            "resulttype" | "funcresulttype" | "opresulttype" | "funccoltypes" | "coltypes" | "typid" => &mut self.types,
            "minmaxtype" => &mut self.compared,
            "seqid" => {
                self.takes_value = true;
                return;
            }
            _ => return,
        };
        if !list.contains(&oid) {
            list.push(oid);
        }
    }

    /// Each function once.
    pub fn distinct(mut self) -> Self {
        self.computed.sort_unstable();
        self.computed.dedup();
        self
    }

    /// Each call of this function, of which there is one, names its setting.
    pub fn names_setting(&self, function: Oid) -> bool {
        !self.computed.contains(&function) && self.constants.iter().any(|(named, _)| *named == function)
    }
}

/// The number of a query's kind.
const SELECT: &str = "1";

/// A constant's bytes: its length, then each as a number in brackets.
#[derive(Default)]
struct Constant {
    bytes: Vec<u8>,
    is_inside: bool,
}

impl Constant {
    fn token(&mut self, token: &str) {
        match token {
            "[" => self.is_inside = true,
            "]" => self.is_inside = false,
            number if self.is_inside => {
                let byte = number.parse::<i16>().ok().and_then(|byte| u8::try_from(byte & 0xFF).ok());
                self.bytes.push(byte.unwrap_or_default());
            }
            _ => {}
        }
    }

    /// The text behind its four bytes of length, if it is one; a boolean or a number is none.
    fn take(&mut self) -> Option<Box<str>> {
        let bytes = std::mem::take(self).bytes;
        let is_name = |text: &&str| !text.is_empty() && !text.chars().any(char::is_control);
        std::str::from_utf8(bytes.get(4..)?).ok().filter(is_name).map(Box::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_named_where_each_call_does() {
        let constant = "{CONST :constvalue 8 [ 32 0 0 0 97 46 98 ] :location 1}";
        let call = |first: &str| format!("{{FUNCEXPR :funcid 2077 :funcresulttype 25 :args ({first}) :location 2}}");
        let names = |trees: &[String]| Mentions::of(&trees.concat()).distinct().names_setting(2077);
        let computed = || call("{VAR :varno 1 :varattno 2}");
        assert!(names(&[call(constant), call(constant)]));
        assert!(!names(&[call(constant), computed()]));
        assert!(!names(&[computed(), call(constant)]));
        assert!(!names(&[computed(), constant.to_owned()]));
        assert!(!names(&[call(constant), "{OPEXPR :opno 16400 :opfuncid 2077 :args ({VAR :varno 1})}".to_owned()]));
        assert!(!names(&[]));
    }

    /// A text as PostgreSQL stores it.
    fn text(text: &str) -> String {
        let size = text.len() + 4;
        let bytes: Vec<String> = text.bytes().map(|byte| byte.to_string()).collect();
        format!(
            "{{CONST :consttype 25 :consttypmod -1 :constcollid 100 :constlen -1 :constbyval false :constisnull false \
             :location 70 :constvalue {size} [ {} 0 0 0 {} ]}}",
            size * 4,
            bytes.join(" ")
        )
    }

    const YES: &str = "{CONST :consttype 16 :consttypmod -1 :constcollid 0 :constlen 1 :constbyval true :constisnull \
                       false :location 86 :constvalue 1 [ 1 0 0 0 0 0 0 0 ]}";

    fn call(function: Oid, arguments: &str) -> String {
        format!(
            "{{FUNCEXPR :funcid {function} :funcresulttype 25 :funcretset false :funcvariadic false :funcformat 0 \
             :funccollid 100 :inputcollid 100 :args ({arguments}) :location 54}}"
        )
    }

    fn cast(argument: &str, to: Oid) -> String {
        format!("{{COERCEVIAIO :arg {argument} :resulttype {to} :resultcollid 0 :coerceformat 1 :location 83}}")
    }

    fn operator(operator: Oid, function: Oid, arguments: &str) -> String {
        format!(
            "{{OPEXPR :opno {operator} :opfuncid {function} :opresulttype 16 :opretset false :opcollid 0 :inputcollid \
             100 :args ({arguments}) :location 50}}"
        )
    }

    fn either(word: &str, arguments: &str) -> String {
        format!("{{BOOLEXPR :boolop {word} :args ({arguments}) :location 90}}")
    }

    #[test]
    fn a_constant_beside_a_call_is_no_setting_that_it_asks_for() {
        // Without and with its second argument; set_config.
        let (asks, may_ask, sets) = (2077, 3294, 2078);
        let column = "{VAR :varno 1 :varattno 1 :vartype 25 :vartypmod -1 :varcollid 100 :varnullingrels (b) :varlevelsup \
                      0 :varnosyn 1 :varattnosyn 1 :location 40}";
        let tenant = call(asks, &text("app.tenant"));
        let noted = |tree: &str| Mentions::of(tree).distinct().constants;
        let texts = |tree: &str| Mentions::of(tree).distinct().texts;

        // tenant_id = current_setting('app.tenant')::int OR current_setting('app.is_admin', true) = 'on'
        let is_tenants = operator(96, 65, &format!("{column} {}", cast(&tenant, 23)));
        let is_admin = call(may_ask, &format!("{} {YES}", text("app.is_admin")));
        let is_admin = operator(98, 67, &format!("{is_admin} {}", text("on")));
        let tree = either("or", &format!("{is_tenants} {is_admin}"));
        assert_eq!(noted(&tree), [(asks, "app.tenant".into()), (may_ask, "app.is_admin".into())]);
        assert_eq!(texts(&tree), [Box::<str>::from("on")]);
        assert!([asks, may_ask].iter().all(|function| Mentions::of(&tree).names_setting(*function)));

        // owner = current_setting('request.jwt.claims', true)::json->>'sub'
        let claims = cast(&call(may_ask, &format!("{} {YES}", text("request.jwt.claims"))), 114);
        let subject = operator(3962, 3214, &format!("{claims} {}", text("sub")));
        let tree = operator(98, 67, &format!("{column} {subject}"));
        assert_eq!(noted(&tree), [(may_ask, "request.jwt.claims".into())]);
        assert!(Mentions::of(&tree).names_setting(may_ask));

        // tenant = current_setting('app.tenant') AND status = 'open'
        let is_tenants = operator(98, 67, &format!("{column} {tenant}"));
        let is_open = operator(98, 67, &format!("{column} {}", text("open")));
        let tree = either("and", &format!("{is_tenants} {is_open}"));
        assert_eq!(noted(&tree), [(asks, "app.tenant".into())]);
        assert!(Mentions::of(&tree).names_setting(asks));

        // set_config('app.tenant', '2MB', true); and of a name that is computed, or none.
        let value = text("2MB");
        let tree = call(sets, &format!("{} {value} {YES}", text("app.tenant")));
        assert_eq!(noted(&tree), [(sets, "app.tenant".into())]);
        assert!(Mentions::of(&tree).names_setting(sets));
        for name in [column, "{CONST :consttype 25 :constisnull true :location 70 :constvalue <>}"] {
            let both = [tree.clone(), call(sets, &format!("{name} {value} {YES}"))].concat();
            assert_eq!(noted(&both), [(sets, "app.tenant".into())], "{name}");
            assert!(!Mentions::of(&both).names_setting(sets), "{name}");
        }
    }

    #[test]
    fn calls_operators_relations_and_locks_are_found() {
        let tree = "({QUERY :commandType 1 :hasForUpdate true :rtable ({RTE :rtekind 0 :relid 16390 :relkind r}) :targetList \
                    ({TARGETENTRY :expr {OPEXPR :opno 96 :opfuncid 65 :opresulttype 16401 :args ({FUNCEXPR :funcid \
                    16400 :args ({CONST :constvalue 8 [ 32 0 0 0 97 46 98 ] :location 1})})}}) :sortClause ({SORTGROUPCLAUSE \
                    :eqop 98 :sortop 664}) :rowMarks <>})";
        let mentions = Mentions::of(tree);
        assert_eq!(mentions.functions, [65, 16400]);
        assert_eq!(mentions.operators, [96, 98, 664]);
        assert_eq!(mentions.relations, [16390]);
        assert_eq!(mentions.types, [16401]);
        assert_eq!(mentions.constants, [(16400, "a.b".into())]);
        assert!(mentions.locks_rows && !mentions.takes_value && !mentions.writes);
        assert!(Mentions::of("{QUERY :commandType 3}").writes);
    }
}
