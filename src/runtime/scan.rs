//! Walks the nodes of a graph, its subgraphs and functions, and follows which shapes hang on values of the inputs.

use std::collections::{BTreeSet, HashMap, HashSet};

use smallvec::SmallVec;

use super::{
    ops::{self, ShapeFrom},
    protobuf::{Fields, Value},
};

/// Subgraphs in subgraphs; deeper files are refused.
const MAX_DEPTH: usize = 100;
/// Nodes and named values; larger files are refused, since each takes more memory here than in the file.
const MAX_NAMED: usize = 2_000_000;
/// Distinct operators, and files of external data.
const MAX_DISTINCT: usize = 10_000;
/// Messages about what cannot be served; the rest would say the same.
const MAX_MESSAGES: usize = 16;
/// A location that begins so is ONNX Runtime's own notation for an address in memory; in a file it is an attack.
const MEMORY_ADDRESS: &str = "*/";

/// What is known of a value; a greater one hangs on more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Taint {
    /// The constant false.
    False,
    /// Constants alone.
    Fixed,
    /// Shapes of inputs.
    Shapes,
    /// Values of inputs, or chance.
    Values,
}

/// What a walk has found.
#[derive(Default)]
pub struct Found {
    pub ops: BTreeSet<(String, String)>,
    pub nodes: usize,
    pub data_dependent: bool,
    pub random: bool,
    pub external: BTreeSet<String>,
    pub initializer_bytes: u64,
    pub unsupported: Vec<String>,
}

/// The main graph's inputs and outputs, still serialised, and the names of its initializers.
pub struct Io<'a> {
    pub inputs: Vec<&'a [u8]>,
    pub outputs: Vec<&'a [u8]>,
    pub initializers: HashSet<&'a [u8]>,
}

/// One walk over a model.
pub struct Scan<'a> {
    pub found: Found,
    ir_version: i64,
    /// Named values of the graph and, outside it, of those that hold it.
    scopes: Vec<HashMap<&'a [u8], Taint>>,
    named: usize,
}

/// A node's head: everything but its attributes.
struct Node<'a> {
    domain: &'a str,
    op: &'a str,
    inputs: SmallVec<[Taint; 8]>,
    outputs: SmallVec<[&'a [u8]; 4]>,
    /// Which inputs are there at all (a name may be empty).
    present: SmallVec<[bool; 8]>,
}

/// `ai.onnx` is an alias of the empty domain.
pub fn domain(name: &str) -> &str {
    if name == "ai.onnx" { "" } else { name }
}

impl<'a> Scan<'a> {
    pub fn new(ir_version: i64) -> Scan<'a> {
        Scan { found: Found::default(), ir_version, scopes: Vec::new(), named: 0 }
    }

    /// Walks the main graph.
    pub fn main(&mut self, graph: &'a [u8]) -> Result<Io<'a>, String> {
        let (io, _) = self.graph(graph, None)?;
        Ok(io)
    }

    /// Walks a model-local function. What callers pass is not followed: its inputs count as shapes.
    pub fn function(&mut self, function: &'a [u8]) -> Result<(), String> {
        self.scopes.push(HashMap::new());
        let mut fields = Fields::of(function);
        while let Some((field, value)) = fields.next()? {
            if field == 4 {
                self.name(value.bytes(), Taint::Shapes)?;
            }
        }
        let mut fields = Fields::of(function);
        while let Some((field, value)) = fields.next()? {
            if field == 7 {
                self.node(value.bytes())?;
            }
        }
        self.scopes.pop();
        Ok(())
    }

    /// Walks one graph; `given` holds what its inputs are (`None`: the main graph). Gives also what its outputs are.
    fn graph(
        &mut self,
        graph: &'a [u8],
        given: Option<&[Taint]>,
    ) -> Result<(Io<'a>, SmallVec<[Taint; 4]>), String> {
        if self.scopes.len() >= MAX_DEPTH {
            return Err(format!("its graphs are nested more than {MAX_DEPTH} deep"));
        }
        self.scopes.push(HashMap::new());
        let mut io = Io { inputs: Vec::new(), outputs: Vec::new(), initializers: HashSet::new() };
        // Initializers and inputs come after the nodes in a file, hence two walks; each skips what it does not want.
        let mut fields = Fields::of(graph);
        while let Some((field, value)) = fields.next()? {
            match field {
                5 => self.initializer(value.bytes(), &mut io)?,
                15 => self.sparse_initializer(value.bytes(), &mut io)?,
                11 => io.inputs.push(value.bytes()),
                12 => io.outputs.push(value.bytes()),
                _ => {}
            }
        }
        for (i, input) in io.inputs.iter().enumerate() {
            let name = first_name(input)?;
            let fixed = self.ir_version < 4 && io.initializers.contains(name);
            let taint = match given {
                _ if fixed => Taint::Fixed,
                None => Taint::Values,
                Some(given) => given.get(i).copied().unwrap_or(Taint::Values),
            };
            self.name(name, taint)?;
        }
        let mut fields = Fields::of(graph);
        while let Some((field, value)) = fields.next()? {
            if field == 1 {
                self.node(value.bytes())?;
            }
        }
        let mut taints = SmallVec::new();
        for output in &io.outputs {
            taints.push(self.taint(first_name(output)?));
        }
        self.scopes.pop();
        Ok((io, taints))
    }

    /// Notes a named value of the innermost graph.
    fn name(&mut self, name: &'a [u8], taint: Taint) -> Result<(), String> {
        self.count()?;
        if let Some(scope) = self.scopes.last_mut() {
            scope.insert(name, taint);
        }
        Ok(())
    }

    fn count(&mut self) -> Result<(), String> {
        self.named += 1;
        if self.named > MAX_NAMED {
            return Err(format!("it has more than {MAX_NAMED} nodes and named values"));
        }
        Ok(())
    }

    fn taint(&self, name: &[u8]) -> Taint {
        self.scopes.iter().rev().find_map(|s| s.get(name).copied()).unwrap_or(Taint::Fixed)
    }

    fn initializer(&mut self, tensor: &'a [u8], io: &mut Io<'a>) -> Result<(), String> {
        let tensor = self.tensor(tensor, false)?;
        io.initializers.insert(tensor.name);
        self.name(tensor.name, if tensor.is_false { Taint::False } else { Taint::Fixed })
    }

    fn sparse_initializer(&mut self, sparse: &'a [u8], io: &mut Io<'a>) -> Result<(), String> {
        let mut fields = Fields::of(sparse);
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => self.initializer(value.bytes(), io)?,
                2 => {
                    self.tensor(value.bytes(), false)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn node(&mut self, message: &'a [u8]) -> Result<(), String> {
        self.count()?;
        self.found.nodes += 1;
        let node = self.head(message)?;
        self.note_op(&node)?;
        let mut given: Taint = node.inputs.iter().copied().fold(Taint::Fixed, Taint::max);
        if matches!(node.op, "Shape" | "Size") {
            given = given.min(Taint::Shapes);
        }
        if ops::is_random(node.op) || (node.op == "Dropout" && self.trains(&node)) {
            self.found.random = true;
            given = Taint::Values;
        }
        let hangs = |i: &usize| node.inputs.get(*i) == Some(&Taint::Values);
        self.found.data_dependent |= match ops::shape_from(node.domain, node.op) {
            ShapeFrom::Shapes => false,
            ShapeFrom::Values => given == Taint::Values,
            ShapeFrom::Inputs(inputs) => inputs.iter().any(hangs),
        };
        let mut results: SmallVec<[Taint; 4]> = SmallVec::new();
        let mut fields = Fields::of(message);
        while let Some((field, value)) = fields.next()? {
            if field == 5 {
                self.attribute(&node, value, &mut results)?;
            }
        }
        for (i, output) in node.outputs.iter().enumerate() {
            let taint = match (ops::is_control_flow(node.domain, node.op), node.op) {
                (true, _) => results.get(i).copied().unwrap_or(given).max(Taint::Fixed),
                (_, "Constant") => results.first().copied().unwrap_or(Taint::Fixed),
                _ => given,
            };
            if !output.is_empty() {
                self.name(output, taint)?;
            }
        }
        Ok(())
    }

    fn head(&self, message: &'a [u8]) -> Result<Node<'a>, String> {
        let mut node = Node {
            domain: "",
            op: "",
            inputs: SmallVec::new(),
            outputs: SmallVec::new(),
            present: SmallVec::new(),
        };
        let mut fields = Fields::of(message);
        while let Some((field, value)) = fields.next()? {
            match field {
                1 => {
                    node.present.push(!value.bytes().is_empty());
                    node.inputs.push(self.taint(value.bytes()));
                }
                2 => node.outputs.push(value.bytes()),
                4 => node.op = value.text()?,
                7 => node.domain = domain(value.text()?),
                _ => {}
            }
        }
        Ok(node)
    }

    fn note_op(&mut self, node: &Node<'_>) -> Result<(), String> {
        // The lookup needs owned strings; most nodes repeat an operator, but a file is read once.
        let key = (node.domain.to_owned(), node.op.to_owned());
        self.found.ops.insert(key);
        if self.found.ops.len() > MAX_DISTINCT {
            return Err(format!("it uses more than {MAX_DISTINCT} different operators"));
        }
        Ok(())
    }

    /// Dropout that drops: its third input says "training" and is not the constant false.
    fn trains(&self, node: &Node<'_>) -> bool {
        node.present.get(2) == Some(&true) && node.inputs.get(2) != Some(&Taint::False)
    }

    fn attribute(
        &mut self,
        node: &Node<'_>,
        attribute: Value<'a>,
        results: &mut SmallVec<[Taint; 4]>,
    ) -> Result<(), String> {
        let mut fields = Fields::of(attribute.bytes());
        while let Some((field, value)) = fields.next()? {
            match field {
                5 | 10 => {
                    let tensor = self.tensor(value.bytes(), true)?;
                    if node.op == "Constant" && tensor.is_false {
                        results.push(Taint::False);
                    }
                }
                6 | 11 => self.subgraph(node, value.bytes(), results)?,
                22 | 23 => {
                    let mut parts = Fields::of(value.bytes());
                    while let Some((part, value)) = parts.next()? {
                        if matches!(part, 1 | 2) {
                            self.tensor(value.bytes(), true)?;
                        }
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn subgraph(
        &mut self,
        node: &Node<'_>,
        graph: &'a [u8],
        results: &mut SmallVec<[Taint; 4]>,
    ) -> Result<(), String> {
        let carried = node.inputs.get(2..).unwrap_or(&[]);
        let mut given: SmallVec<[Taint; 8]> = SmallVec::new();
        let (given, skip): (&[Taint], usize) = match (node.domain, node.op) {
            ("", "If") => (&[], 0),
            ("", "Scan") => (&node.inputs, 0),
            // The iteration's number, the condition, and what goes round.
            ("", "Loop") => {
                given.push(Taint::Shapes);
                given.push(node.inputs.get(1).copied().unwrap_or(Taint::Fixed));
                given.extend_from_slice(carried);
                (&given, 1)
            }
            _ => (&[], 0),
        };
        let (_, taints) = self.graph(graph, Some(given))?;
        if skip == 1 && taints.first() == Some(&Taint::Values) {
            self.found.data_dependent = true;
        }
        let floor = match (node.domain, node.op) {
            ("", "If") => node.inputs.first().copied().unwrap_or(Taint::Fixed),
            _ => Taint::Fixed,
        };
        for (i, taint) in taints.into_iter().skip(skip).enumerate() {
            let start = if skip == 1 { carried.get(i).copied() } else { None };
            let taint = taint.max(floor).max(start.unwrap_or(floor));
            match results.get_mut(i) {
                Some(known) => *known = taint.max(*known),
                None => results.push(taint),
            }
        }
        Ok(())
    }

    /// Reads a TensorProto but for its weights. `inline`: of an attribute, where external data is refused.
    fn tensor(&mut self, message: &'a [u8], inline: bool) -> Result<TensorHead<'a>, String> {
        let mut head = TensorHead { name: &[], is_false: false };
        let (mut kind, mut bytes, mut zero) = (0, 0u64, true);
        let (mut location, mut external) = (None, false);
        let mut fields = Fields::of(message);
        while let Some((field, value)) = fields.next()? {
            match field {
                2 => kind = value.int(),
                8 => head.name = value.bytes(),
                13 => location = entry(value.bytes(), b"location")?.or(location),
                14 => external = value.int() == 1,
                4..=7 | 9..=11 => {
                    bytes += match value {
                        Value::Varint(n) => {
                            zero &= n == 0;
                            4
                        }
                        Value::Fixed(n) | Value::Len(n) => {
                            zero &= n.len() <= 8 && n.iter().all(|b| *b == 0);
                            n.len() as u64
                        }
                    };
                }
                _ => {}
            }
        }
        self.found.initializer_bytes = self.found.initializer_bytes.saturating_add(bytes);
        head.is_false = kind == 9 && zero && !external;
        if external {
            self.external(location, inline)?;
        }
        Ok(head)
    }

    fn external(&mut self, location: Option<&[u8]>, inline: bool) -> Result<(), String> {
        let location = match location.map(std::str::from_utf8) {
            Some(Ok(location)) if !location.is_empty() && !location.contains('\0') => location,
            _ => return Err("a tensor of external data names no file".to_owned()),
        };
        if inline || location.starts_with(MEMORY_ADDRESS) {
            let place = if inline { "an attribute" } else { "memory" };
            if self.found.unsupported.len() < MAX_MESSAGES {
                self.found
                    .unsupported
                    .push(format!("a tensor has external data in {place} ({location:?})"));
            }
            return Ok(());
        }
        self.found.external.insert(location.to_owned());
        if self.found.external.len() > MAX_DISTINCT {
            return Err(format!("it names more than {MAX_DISTINCT} files of external data"));
        }
        Ok(())
    }
}

struct TensorHead<'a> {
    name: &'a [u8],
    /// A BOOL tensor that holds nothing but false.
    is_false: bool,
}

/// The value of a StringStringEntryProto, if it has this key.
fn entry<'a>(message: &'a [u8], key: &[u8]) -> Result<Option<&'a [u8]>, String> {
    let (mut found, mut text): (bool, &[u8]) = (false, &[]);
    let mut fields = Fields::of(message);
    while let Some((field, value)) = fields.next()? {
        match field {
            1 => found = value.bytes() == key,
            2 => text = value.bytes(),
            _ => {}
        }
    }
    Ok(found.then_some(text))
}

/// The name in a ValueInfoProto.
fn first_name(message: &[u8]) -> Result<&[u8], String> {
    let mut name: &[u8] = &[];
    let mut fields = Fields::of(message);
    while let Some((field, value)) = fields.next()? {
        if field == 1 {
            name = value.bytes();
        }
    }
    Ok(name)
}
