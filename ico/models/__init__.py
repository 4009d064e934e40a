"""Thin Flax Linen modules over `ico.layers`: they name parameters and nothing else."""

from ico.models._alternating import AlternatingTransformer, sinusoidal_positions
from ico.models._classification import image_logits, image_loss, measure_images, to_unit
from ico.models._classifiers import (
    ConvClassifier,
    MLPClassifier,
    MultiHeadClassifier,
    PatchConv,
)
from ico.models._construction_error import construction_error
from ico.models._continual import (
    ContinualHyperTransformer,
    ContinualLoss,
    TaskSequence,
    backward_transfer,
)
from ico.models._convnet import (
    Moments,
    conv_block,
    convnet,
    convnet_features,
    convnet_shapes,
    convolve,
    dense,
    init_convnet,
)
from ico.models._few_shot import LinearHead, Maml, ProtoNet
from ico.models._fine_tuning import (
    AdaMix,
    Adapters,
    FineTuning,
    Lora,
    Memory,
    Prompts,
    WholeModel,
    consistency,
)
from ico.models._hypertransformer import HyperTransformer
from ico.models._in_context_regression import (
    DiagonalLinearTransformer,
    FreeDiagonalLinearTransformer,
    FullLinearTransformer,
    GdPlusPlusLinearTransformer,
    stacked_products,
)
from ico.models._in_order import learn_in_order
from ico.models._interpolation import (
    average_products,
    block_scalars,
    from_block_scalars,
    gd_plus_plus_gamma,
    gradient_step_like,
    gradient_step_rate,
    interpolate,
    normalise,
    products,
    scale_updates,
)
from ico.models._learner import learner
from ico.models._linear_transformer import LinearTransformer
from ico.models._memory import (
    attention_to_memory,
    concatenate_tasks,
    drop_tasks,
    memory_logits,
    new_task,
    sees_mask,
)
from ico.models._mixer import Mixer, MixerKind
from ico.models._preconditioned_step import PreconditionedStep, preconditioned_start
from ico.models._resnet import (
    BatchNorm,
    Norm,
    ResNetClassifier,
    SmallResNetClassifier,
    batch_statistics,
)
from ico.models._sequence_transformer import SequenceTransformer, TokenTransformer
from ico.models._set_attention import SetAttention, SetBlock, SetBlocks, SetKind
from ico.models._slices import Allocation, from_slices, to_slices
from ico.models._vit import Additions, ViT, ViTBlock, ViTClassifier
from ico.models._vit_files import load_vit
from ico.models._weights_loss import OneSeed, init_weights_model, weights_loss, weights_of

__all__ = [
    "AdaMix",
    "Adapters",
    "Additions",
    "Allocation",
    "AlternatingTransformer",
    "BatchNorm",
    "ContinualHyperTransformer",
    "ContinualLoss",
    "ConvClassifier",
    "DiagonalLinearTransformer",
    "FineTuning",
    "FreeDiagonalLinearTransformer",
    "FullLinearTransformer",
    "GdPlusPlusLinearTransformer",
    "HyperTransformer",
    "LinearHead",
    "LinearTransformer",
    "Lora",
    "MLPClassifier",
    "Maml",
    "Memory",
    "Mixer",
    "MultiHeadClassifier",
    "MixerKind",
    "Moments",
    "Norm",
    "OneSeed",
    "PatchConv",
    "PreconditionedStep",
    "Prompts",
    "ProtoNet",
    "ResNetClassifier",
    "SequenceTransformer",
    "SetAttention",
    "SetBlock",
    "SetBlocks",
    "SetKind",
    "SmallResNetClassifier",
    "TaskSequence",
    "TokenTransformer",
    "ViT",
    "ViTBlock",
    "ViTClassifier",
    "WholeModel",
    "attention_to_memory",
    "average_products",
    "backward_transfer",
    "batch_statistics",
    "block_scalars",
    "concatenate_tasks",
    "consistency",
    "construction_error",
    "conv_block",
    "convnet",
    "convnet_features",
    "convnet_shapes",
    "convolve",
    "dense",
    "drop_tasks",
    "from_block_scalars",
    "from_slices",
    "gd_plus_plus_gamma",
    "gradient_step_like",
    "gradient_step_rate",
    "image_logits",
    "image_loss",
    "init_convnet",
    "init_weights_model",
    "interpolate",
    "learn_in_order",
    "learner",
    "measure_images",
    "load_vit",
    "memory_logits",
    "new_task",
    "normalise",
    "preconditioned_start",
    "products",
    "scale_updates",
    "sees_mask",
    "sinusoidal_positions",
    "stacked_products",
    "to_slices",
    "to_unit",
    "weights_loss",
    "weights_of",
]
