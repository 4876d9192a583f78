"""Tiny instances of the backbones of keras_hub that read texts, and inputs.

Each entry of `BACKBONES` builds a model and maps blocks of it to the parts of
the sequence that they return: the name of the input that says which positions
count (a mask, or tokens, of which those above 0 do), or a number of positions
of each sample that all count.
"""

import functools
import inspect

import numpy as np

# All differ, so that no mask fits by chance.
BATCH, TIME, DECODED, FRAMES, SAMPLES = 3, 7, 5, 12, 960
_LENGTHS = {
    "padding_mask": (TIME, (2, 7, 4)),
    "encoder_padding_mask": (TIME, (5, 7, 3)),
    "decoder_padding_mask": (DECODED, (2, 5, 1)),
    "audio_padding_mask": (SAMPLES, (960, 500, 700)),
}
_SIZES = {
    "vocabulary_size": 30,
    "vocab_size": 30,
    "num_layers": 4,
    "num_layers_enc": 3,
    "num_layers_dec": 3,
    "encoder_num_layers": 3,
    "decoder_num_layers": 3,
    "num_heads": 2,
    "num_attention_heads": 2,
    "num_query_heads": 2,
    "num_key_value_heads": 1,
    "encoder_num_heads": 2,
    "decoder_num_heads": 2,
    "encoder_num_attention_heads": 2,
    "encoder_num_key_value_heads": 1,
    "decoder_num_attention_heads": 2,
    "decoder_num_key_value_heads": 1,
    "head_dim": 8,
    "head_size": 4,
    "encoder_head_dim": 4,
    "decoder_head_dim": 4,
    "embedding_dim": 8,
    "hidden_dim": 8,
    "hidden_size": 8,
    "encoder_hidden_dim": 8,
    "decoder_hidden_dim": 8,
    "filter_dim": 8,
    "projection_dim": 8,
    "intermediate_dim": 16,
    "encoder_intermediate_dim": 16,
    "decoder_intermediate_dim": 16,
    "moe_intermediate_dim": 8,
    "shared_expert_intermediate_dim": 8,
    "shared_expert_intermediate_size": 8,
    "num_experts": 2,
    "top_k": 1,
    "max_sequence_length": 16,
    "image_shape": (8, 8, 3),
    "image_size": 8,
    "patch_size": 4,
}
_PATCHES = 4  # (image_size / patch_size) ** 2
_QUERIES = 2

_GATED_DELTA = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
}
_FULL_ATTENTION = {
    "encoder_layer_types": ["full_attention"] * 3,
    "decoder_layer_types": ["full_attention"] * 3,
}


def tiny(name, **arguments):
    """A class of `keras_hub.models`, with small dimensions."""
    import keras_hub

    kind = getattr(keras_hub.models, name)
    known = inspect.signature(kind.__init__).parameters
    sizes = {key: _SIZES[key] for key in known if key in _SIZES}
    return kind(**{**sizes, **arguments})


def _two_towers(name):
    family = name.removesuffix("Backbone")
    return tiny(
        name,
        vision_encoder=tiny(f"{family}VisionEncoder", num_layers=2),
        text_encoder=tiny(
            f"{family}TextEncoder", num_layers=2, max_sequence_length=TIME
        ),
    )


def _pali_gemma():
    return tiny(
        "PaliGemmaBackbone",
        vit_patch_size=4,
        vit_num_heads=2,
        vit_hidden_dim=8,
        vit_num_layers=2,
    )


def _gemma3():
    return tiny(
        "Gemma3Backbone",
        vision_encoder=tiny(
            "Gemma3VisionEncoder", num_layers=2, output_dim=8, pool_size=2
        ),
    )


def _blip2(language):
    queries = {
        "num_query_tokens": _QUERIES,
        "qformer_hidden_dim": 8,
        "dropout": 0.0,
    }
    return tiny(
        "BLIP2Backbone",
        vision_encoder=tiny(
            "BLIP2VisionEncoder",
            num_layers=1,
            use_patch_bias=True,
            use_class_token=True,
            use_mha_bias=True,
            use_mlp_bias=True,
            dropout_rate=0.0,
            layer_norm_epsilon=1e-6,
            initializer_range=0.02,
        ),
        qformer=tiny(
            "BLIP2QFormer",
            num_query_tokens=_QUERIES,
            num_layers=2,
            vision_dim=8,
            cross_attention_frequency=2,
            dropout=0.0,
            layer_norm_epsilon=1e-6,
        ),
        language_model=tiny(language, **queries),
    )


def _parseq():
    return tiny(
        "PARSeqBackbone",
        image_encoder=tiny(
            "ViTBackbone", num_layers=1, mlp_dim=16, use_class_token=False
        ),
        max_label_length=TIME,
        num_decoder_layers=2,
        num_decoder_heads=2,
        decoder_mlp_dim=16,
        decoder_hidden_dim=8,
    )


def _backbone(name, **arguments):
    return functools.partial(tiny, f"{name}Backbone", **arguments)


# The mask is computed in the model: the monitor must warn.
UNKNOWN = ()
# One frame, in all samples together.
FRAME = 1 / BATCH
_TOWERS = {
    "*vision_encoder/encoder_block_1": (_PATCHES + 1,),
    "*text_encoder/encoder_block_1": (TIME,),
}
_MIDDLE = {"middle:2": ("padding_mask",)}
_TRANSFORMERS = {
    "transformer_encoder_layer_1": ("encoder_padding_mask",),
    "transformer_decoder_layer_1": ("decoder_padding_mask",),
}
_LAYERS = {
    "encoder_layer_1": ("encoder_padding_mask",),
    "decoder_layer_1": ("decoder_padding_mask",),
}
_TOKENS = {"middle:2": ("token_ids",)}

_ONE_SEQUENCE = [
    "Bert",
    "Roberta",
    "DistilBert",
    "Electra",
    "XLMRoberta",
    "GPT2",
    "OPT",
    "Bloom",
    "Llama",
    "Llama3",
    "Mistral",
    "Mixtral",
    "Gemma",
    "Gemma3",
    "Gemma4",
    "Phi3",
    "Falcon",
    "Qwen",
    "Qwen2",
    "QwenMoe",
    "Qwen3",
    "Qwen3Moe",
    "GptOss",
]

BACKBONES = {
    **{name: (_backbone(name), _MIDDLE) for name in _ONE_SEQUENCE},
    # One block, which is called four times.
    "Albert": (
        _backbone("Albert"),
        {"group_0_inner_layer_0": ("padding_mask",) * 4},
    ),
    "DebertaV3": (_backbone("DebertaV3", bucket_size=8), _MIDDLE),
    "GPTNeoX": (_backbone("GPTNeoX", rotary_percentage=1.0), _MIDDLE),
    "Qwen3_5": (_backbone("Qwen3_5", **_GATED_DELTA), _MIDDLE),
    "Qwen3_5Moe": (_backbone("Qwen3_5Moe", **_GATED_DELTA), _MIDDLE),
    "SmolLM3": (
        _backbone(
            "SmolLM3",
            attention_bias=False,
            attention_dropout=0.0,
            rope_layer_enabled_list=[True] * 4,
            layer_types=["attention"] * 4,
            mlp_bias=False,
            layer_norm_epsilon=1e-6,
            max_position_embeddings=16,
            rope_theta=1e4,
            partial_rotary_factor=1.0,
        ),
        _MIDDLE,
    ),
    "RWKV7": (
        _backbone("RWKV7", gate_lora=4, mv_lora=4, aaa_lora=4, decay_lora=4),
        {"rwkv_layer_[12]": ("padding_mask",)},
    ),
    "XLNet": (_backbone("XLNet"), {"xlnet_encoder_[12]": ("padding_mask",)}),
    # These take no mask, but the id of the padding token.
    "ESM": (_backbone("ESM"), _TOKENS),
    "RoformerV2": (_backbone("RoformerV2"), _TOKENS),
    # These have no padding: each position attends to all others.
    "FNet": (_backbone("FNet"), {"middle:2": (TIME,)}),
    "T5": (_backbone("T5"), _TRANSFORMERS),
    "Bart": (_backbone("Bart"), _TRANSFORMERS),
    "EdRec": (_backbone("EdRec"), _LAYERS),
    "T5Gemma": (_backbone("T5Gemma", **_FULL_ATTENTION), _LAYERS),
    "T5Gemma2": (_backbone("T5Gemma2", **_FULL_ATTENTION), _LAYERS),
    # Sounds without padding: half the frames, after a convolution.
    "Whisper": (
        _backbone("Whisper", num_mels=8, max_encoder_sequence_length=FRAMES),
        {
            "transformer_encoder_layer_1": (FRAMES // 2,),
            "transformer_decoder_layer_1": ("decoder_padding_mask",),
        },
    ),
    # Its convolutions make one frame of 960 samples, and none of 700.
    "Moonshine": (
        _backbone("Moonshine"),
        {
            "encoder_block_1": (FRAME,),
            "encoder_final_layer_norm": UNKNOWN,
            "decoder_block_1": ("decoder_padding_mask",),
        },
    ),
    "CLIP": (functools.partial(_two_towers, "CLIPBackbone"), _TOWERS),
    "MetaCLIP2": (functools.partial(_two_towers, "MetaCLIP2Backbone"), _TOWERS),
    "SigLIP": (
        functools.partial(_two_towers, "SigLIPBackbone"),
        {**_TOWERS, "*vision_encoder/encoder_block_1": (_PATCHES,)},
    ),
    # Patches stand before the text, ...
    "PaliGemma": (
        _pali_gemma,
        {
            "decoder_block_1": (_PATCHES, "padding_mask"),
            "final_normalization": (_PATCHES, "padding_mask"),
            "pali_gemma_vit/**/encoder_block_1": (_PATCHES,),
        },
    ),
    # ... replace tokens, ...
    "Gemma3Vision": (
        _gemma3,
        {
            "decoder_block_1": ("padding_mask",),
            "gemma3_vision_encoder/**/encoder_block_1": (_PATCHES,),
        },
    ),
    # ... or are summed up in queries.
    "BLIP2OPT": (
        functools.partial(_blip2, "BLIP2CustomOPT"),
        {
            "*former/transformer_layer_1": (_QUERIES,),
            "blip2_custom_opt/transformer_layer_1": (_QUERIES, "padding_mask"),
        },
    ),
    "BLIP2T5": (
        functools.partial(_blip2, "BLIP2FlanT5"),
        {
            "transformer_encoder_layer_1": (_QUERIES, "encoder_padding_mask"),
            "transformer_decoder_layer_1": ("decoder_padding_mask",),
        },
    ),
    "PARSeq": (
        _parseq,
        {
            "vi_t_backbone/**/transformer_block_1": (_PATCHES,),
            "decoder/decoder_layer_0": ("padding_mask",),
        },
    ),
}


def inputs(model):
    """Random inputs of a backbone, padded at the end."""
    rng = np.random.default_rng(0)
    spec = {one.name: one for one in model.inputs}
    sound = "encoder_input_values" in spec
    made = {}
    for name in sorted(spec, key=lambda name: "padding_mask" not in name):
        shape, decoder = spec[name].shape[1:], name.startswith("decoder")
        time = DECODED if decoder else TIME
        if name.endswith("padding_mask"):
            kind = "audio_padding_mask" if sound and not decoder else name
            time, lengths = _LENGTHS[kind]
            made[name] = np.arange(time) < np.array(lengths)[:, None]
            made[name] = made[name].astype("int32")
        elif name.endswith("token_ids"):
            made[name] = rng.integers(5, 29, (BATCH, time)).astype("int32")
            mask = made.get(name.replace("token_ids", "padding_mask"))
            if mask is None and len(spec) <= 2:
                mask = np.arange(time) < np.array([[2], [7], [4]])
            made[name] *= 1 if mask is None else mask.astype("int32")
        elif name == "vision_indices":
            made[name] = np.zeros((BATCH, 1), "int32")
        elif len(shape) == 1:
            made[name] = np.zeros((BATCH, time), "int32")
        else:
            time = SAMPLES if sound else FRAMES
            if len(shape) == 4:
                time = 1
            sizes = [time if size is None else size for size in shape]
            made[name] = rng.normal(size=(BATCH, *sizes)).astype("float32")
    return made
