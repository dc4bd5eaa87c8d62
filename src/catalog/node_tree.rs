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
    /// What may be the names of settings asked for: the constants behind each call.
    pub constants: Vec<(Oid, Box<str>)>,
    /// Functions that are called somewhere without a constant as their first argument.
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
        // Whose arguments are to come.
        let mut called: Option<Oid> = None;
        for token in tree.split([' ', '\n', '\t', '(', ')', '{', '}']).filter(|token| !token.is_empty()) {
            if let Some(name) = token.strip_prefix(':') {
                if let (Some(function), Some(text)) = (mentions.functions.last(), constant.take()) {
                    mentions.constants.push((*function, text));
                }
                field = name;
            } else if field == "constvalue" {
                constant.token(token);
            } else {
                match field {
                    "funcid" => called = token.parse().ok(),
                    "args" if token == "CONST" => called = None,
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
            "resulttype" | "funcresulttype" | "funccoltypes" | "coltypes" | "typid" => &mut self.types,
            "minmaxtype" => &mut self.compared,
            "seqid" => {
                self.takes_value = true;
                return;
            }
            _ => return,
        };
        // The function called last stands at the end, for the constants behind it.
        if field != "funcid" && list.contains(&oid) {
            return;
        }
        list.push(oid);
    }

    /// Each function once.
    pub fn distinct(mut self) -> Self {
        self.functions.sort_unstable();
        self.functions.dedup();
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

    #[test]
    fn calls_operators_relations_and_locks_are_found() {
        let tree = "({QUERY :commandType 1 :hasForUpdate true :rtable ({RTE :rtekind 0 :relid 16390 :relkind r}) :targetList \
                    ({TARGETENTRY :expr {OPEXPR :opno 96 :opfuncid 65 :args ({FUNCEXPR :funcid 16400 :args \
                    ({CONST :constvalue 8 [ 32 0 0 0 97 46 98 ] :location 1})})}}) :sortClause ({SORTGROUPCLAUSE \
                    :eqop 98 :sortop 664}) :rowMarks <>})";
        let mentions = Mentions::of(tree);
        assert_eq!(mentions.functions, [65, 16400]);
        assert_eq!(mentions.operators, [96, 98, 664]);
        assert_eq!(mentions.relations, [16390]);
        assert_eq!(mentions.constants, [(16400, "a.b".into())]);
        assert!(mentions.locks_rows && !mentions.takes_value && !mentions.writes);
        assert!(Mentions::of("{QUERY :commandType 3}").writes);
    }
}
