//! One file of manifests: from text to objects.
//!
//! Never panics on any text. A document that cannot be read does not take the other documents of
//! its file with it, nor an object of a list the others.

use std::collections::BTreeSet;

use super::yaml::{Node, Value, parse_document};
use crate::{
    model::{DEFAULT_NAMESPACE, FieldPath, Invalid, Kind, Object, ObjectRef, Problem, Step},
    sources::decode,
};

/// What a file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parsed {
    /// Its valid objects and their lines, in order.
    pub objects: Vec<(Object, u64)>,
    /// What is wrong in it. Those that name an object tell of that one alone.
    pub problems: Vec<Problem>,
    /// Kinds in it that Weir does not read, as `apiVersion/Kind`.
    pub unknown_kinds: BTreeSet<String>,
    /// Something in it could not even be named: it may hold any object.
    pub has_unreadable: bool,
}

/// Reads the text of a file.
pub fn parse(file: &str, text: &str) -> Parsed {
    let mut parser = Parser {
        file,
        first_line: 1,
        parsed: Parsed::default(),
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if has_json_name(file) {
        // YAML has all of JSON but tabs for indentation; inside a string JSON has no raw tab.
        parser.document(&text.replace('\t', " "));
        return parser.parsed;
    }
    for (first_line, document) in documents(text) {
        parser.first_line = first_line;
        parser.document(&document);
    }
    parser.parsed
}

fn has_json_name(file: &str) -> bool {
    file.rsplit_once('.')
        .is_some_and(|(_, extension)| extension.eq_ignore_ascii_case("json"))
}

/// Splits a file into documents, each with the number of its first line.
///
/// A marker in the first column always ends a document, in a block scalar too (YAML 1.2.2 section
/// 9.1.4), so that a document is found however broken the one before it is.
fn documents(text: &str) -> Vec<(u64, String)> {
    let mut documents = Vec::new();
    let mut first_line = 1;
    let mut document = String::new();
    for (number, line) in (1..).zip(text.split_inclusive('\n')) {
        if let Some(rest) = marker(line, "---") {
            documents.push((first_line, std::mem::take(&mut document)));
            first_line = number;
            // The rest of the line belongs to the new document and keeps its columns.
            document.push_str("   ");
            document.push_str(rest);
        } else if marker(line, "...").is_some() {
            documents.push((first_line, std::mem::take(&mut document)));
            first_line = number + 1;
        } else {
            document.push_str(line);
        }
    }
    documents.push((first_line, document));
    documents.retain(|(_, document)| !is_empty(document));
    documents
}

/// What follows a marker that is a word of its own in the first column.
fn marker<'a>(line: &'a str, marker: &str) -> Option<&'a str> {
    let rest = line.strip_prefix(marker)?;
    (rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])).then_some(rest)
}

/// Are there only comments, and the directives that may precede a marker?
fn is_empty(document: &str) -> bool {
    document.lines().all(|line| {
        line.starts_with('%') || matches!(line.trim_start().chars().next(), None | Some('#'))
    })
}

struct Parser<'a> {
    file: &'a str,
    /// The line of the file in which the document begins.
    first_line: u64,
    parsed: Parsed,
}

impl Parser<'_> {
    fn document(&mut self, text: &str) {
        match parse_document(text) {
            Ok(root) => self.manifest(&root, None, &FieldPath::default()),
            Err(error) => {
                let problem = Problem::new(error.message);
                self.unreadable(problem, error.line.unwrap_or(1));
            }
        }
    }

    /// An object or a list of objects. Items of a list of one kind need not repeat the kind; their
    /// fields are named from the document's root.
    fn manifest(&mut self, node: &Node, of_list: Option<(&str, &str)>, place: &FieldPath) {
        match &node.value {
            Value::Map(_) => {}
            Value::Null => return,
            Value::Scalar(_) | Value::List(_) => {
                return self.fault(node, place, Invalid::new("", "is not an object"), None);
            }
        }
        let text = |field| node.get_text(field).filter(|text| !text.is_empty());
        let api_version = text("apiVersion").or(of_list.map(|(api_version, _)| api_version));
        let kind = text("kind").or(of_list.map(|(_, kind)| kind));
        let (api_version, kind) = match (api_version, kind) {
            (Some(api_version), Some(kind)) => (api_version, kind),
            (None, _) => {
                return self.fault(node, place, Invalid::new("apiVersion", "is missing"), None);
            }
            (_, None) => return self.fault(node, place, Invalid::new("kind", "is missing"), None),
        };
        if let Some(item_kind) = kind.strip_suffix("List")
            && let Some(items) = node.get("items")
        {
            let of_list = (!item_kind.is_empty()).then_some((api_version, item_kind));
            self.list(items, of_list, place);
        } else if let Some(kind) = Kind::of(api_version, kind) {
            self.object(kind, node, place);
        } else {
            self.parsed
                .unknown_kinds
                .insert(format!("{api_version}/{kind}"));
        }
    }

    fn list(&mut self, items: &Node, of_list: Option<(&str, &str)>, place: &FieldPath) {
        match &items.value {
            Value::List(list) => {
                for (index, item) in list.iter().enumerate() {
                    let mut place = place.clone();
                    place.0.push(Step::Key("items".to_owned()));
                    place.0.push(Step::Index(index));
                    self.manifest(item, of_list, &place);
                }
            }
            Value::Null => {}
            Value::Scalar(_) | Value::Map(_) => {
                self.fault(items, place, Invalid::new("items", "is not a list"), None);
            }
        }
    }

    fn object(&mut self, kind: Kind, node: &Node, place: &FieldPath) {
        let result = decode::object(kind, &node.to_json());
        match result {
            Ok(object) => {
                for invalid in object.ignored() {
                    let identity = Some(object.reference());
                    self.fault(node, place, invalid.clone(), identity);
                }
                let line = self.line(node.line);
                self.parsed.objects.push((object, line));
            }
            Err(invalid) => self.fault(node, place, invalid, identity(kind, node)),
        }
    }

    /// A fault of the object at this place of the document.
    fn fault(
        &mut self,
        node: &Node,
        place: &FieldPath,
        mut invalid: Invalid,
        object: Option<ObjectRef>,
    ) {
        let line = node.line_of(&invalid.field);
        invalid.field.0.splice(0..0, place.0.iter().cloned());
        let is_named = object.is_some();
        let problem = Problem::invalid(object, invalid);
        if is_named {
            let problem = self.placed(problem, line);
            self.parsed.problems.push(problem);
        } else {
            self.unreadable(problem, line);
        }
    }

    fn unreadable(&mut self, problem: Problem, line: u64) {
        self.parsed.has_unreadable = true;
        let problem = self.placed(problem, line);
        self.parsed.problems.push(problem);
    }

    fn placed(&self, problem: Problem, line: u64) -> Problem {
        problem.in_file(self.file).at_line(self.line(line))
    }

    /// The line of the file that is this line of the document.
    const fn line(&self, line: u64) -> u64 {
        self.first_line + line.saturating_sub(1)
    }
}

/// What the object is called, if that much can be read.
fn identity(kind: Kind, node: &Node) -> Option<ObjectRef> {
    let metadata = node.get("metadata")?;
    let name = metadata.get_text("name").filter(|name| !name.is_empty())?;
    let namespace = match (kind.is_namespaced(), metadata.get("namespace")) {
        (false, _) => "",
        (true, None) => DEFAULT_NAMESPACE,
        (true, Some(_)) => match metadata.get_text("namespace")? {
            "" => DEFAULT_NAMESPACE,
            namespace => namespace,
        },
    };
    Some(ObjectRef::new(kind, namespace, name))
}

#[cfg(test)]
mod tests;
