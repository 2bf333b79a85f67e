//! What is known of operators by name: which shape of an answer hangs on values, what is random, what branches.

/// Where the shape that an operator gives comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeFrom {
    /// The shapes of its inputs and its attributes alone.
    Shapes,
    /// The values of some of its inputs, always.
    Values,
    /// The values of the inputs at these positions.
    Inputs(&'static [usize]),
}

/// Where the shape of this operator's outputs comes from. Operators that are not known count as `Shapes`.
pub fn shape_from(domain: &str, op: &str) -> ShapeFrom {
    match (domain, op) {
        (_, "NonZero" | "Unique" | "Compress" | "NonMaxSuppression" | "StringSplit")
        | (_, "ImageDecoder" | "Tokenizer" | "BeamSearch" | "GreedySearch" | "Sampling") => {
            ShapeFrom::Values
        }
        ("", "Range") | ("com.microsoft", "Range") => ShapeFrom::Inputs(&[0, 1, 2]),
        ("", "ConstantOfShape" | "HannWindow" | "HammingWindow" | "BlackmanWindow") => {
            ShapeFrom::Inputs(&[0])
        }
        ("", "MelWeightMatrix") => ShapeFrom::Inputs(&[0, 1]),
        (
            "",
            "Reshape" | "Expand" | "Upsample" | "TopK" | "OneHot" | "CenterCropPad" | "AffineGrid",
        )
        | ("", "Squeeze" | "Unsqueeze" | "Split" | "SplitToSequence" | "DFT")
        | ("com.microsoft", "ExpandDims") => ShapeFrom::Inputs(&[1]),
        ("", "Tile" | "Col2Im") => ShapeFrom::Inputs(&[1, 2]),
        ("", "Resize") => ShapeFrom::Inputs(&[1, 2, 3]),
        ("", "Slice") => ShapeFrom::Inputs(&[1, 2, 3, 4]),
        ("", "Pad") => ShapeFrom::Inputs(&[1, 3]),
        ("com.microsoft", "Pad") => ShapeFrom::Inputs(&[1]),
        ("", "STFT") => ShapeFrom::Inputs(&[1, 3]),
        ("", "MaxUnpool") => ShapeFrom::Inputs(&[2]),
        ("com.microsoft", "CropAndResize") => ShapeFrom::Inputs(&[3]),
        ("", reduce) if reduce.starts_with("Reduce") => ShapeFrom::Inputs(&[1]),
        // The condition; what a loop's body decides is looked at where the body is.
        ("", "If") => ShapeFrom::Inputs(&[0]),
        ("", "Loop") => ShapeFrom::Inputs(&[0, 1]),
        _ => ShapeFrom::Shapes,
    }
}

/// Operators that run a subgraph.
pub fn is_control_flow(domain: &str, op: &str) -> bool {
    domain.is_empty() && matches!(op, "If" | "Loop" | "Scan")
}

/// Operators that answer the same input differently each time. (Dropout is decided by its inputs.)
pub fn is_random(op: &str) -> bool {
    matches!(
        op,
        "RandomNormal"
            | "RandomNormalLike"
            | "RandomUniform"
            | "RandomUniformLike"
            | "Multinomial"
            | "Bernoulli"
            | "Sampling"
    )
}
