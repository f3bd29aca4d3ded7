"""Third-party families: transformers' own classes with random weights from tiny configs.

Widths are distinct small numbers, two layers where a config has layers. Nothing is downloaded.
"""

from collections.abc import Callable
from typing import Any

import torch
import transformers
from torch import nn

from tests.zoo.sample import Dynamic, Recipe, Sample, catalogue, flags, floats, recipe, whole


def tiny(family: str, kind: str, **config: Any) -> Callable[[], nn.Module]:
    """Builds `<family><kind>` from `<family>Config`, with weights large enough to matter."""

    def build() -> nn.Module:
        settings = getattr(transformers, f"{family}Config")(**config)
        return livened(getattr(transformers, family + kind)(settings))

    return build


@torch.no_grad()
def livened(model: nn.Module) -> nn.Module:
    """Scale up matrices drawn with the customary std of 0.02: in a tiny net they do nothing."""
    for parameter in model.parameters():
        if parameter.ndim > 1 and 0 < parameter.std() < 0.1:
            parameter.mul_(parameter.shape[1:].numel() ** -0.5 / parameter.std())
    return model


def detr() -> nn.Module:
    """DETR over a small ResNet: the object queries, the mask and the box head are exported too."""
    backbone = transformers.ResNetConfig(embedding_size=6, hidden_sizes=[8, 12], depths=[1, 1],
                                         layer_type="basic", out_features=["stage2"])
    return tiny("Detr", "ForObjectDetection", use_timm_backbone=False, backbone_config=backbone,
                use_pretrained_backbone=False, d_model=24, num_queries=7, num_labels=5,
                encoder_layers=2, encoder_attention_heads=3, encoder_ffn_dim=40,
                decoder_layers=2, decoder_attention_heads=2, decoder_ffn_dim=36)()


def whisper_encoder() -> nn.Module:
    """Whisper's audio half, out of the whole model."""
    return tiny("Whisper", "Model", vocab_size=61, num_mel_bins=10, d_model=24,
                max_source_positions=12, encoder_layers=2, encoder_attention_heads=3,
                encoder_ffn_dim=40, decoder_layers=1, decoder_attention_heads=2,
                decoder_ffn_dim=36, pad_token_id=0, bos_token_id=1, eos_token_id=2,
                decoder_start_token_id=1)().encoder


IMAGE = floats(2, 3, 32, 32)
TEXT = whole(2, 9, below=61)
SEQUENCE: Dynamic = {"input_ids": {1: "n"}}
CLASSIFY = "ForImageClassification"
LABELS = {"num_labels": 5}


def encoder(family: str, kind: str, **config: Any) -> Recipe:
    """A BERT-like encoder over tokens and a padding mask, sequence length symbolic."""
    shape = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
             "intermediate_size": 40, "max_position_embeddings": 20}
    dynamic = {"input_ids": {1: "n"}, "attention_mask": {1: "n"}}
    build = tiny(family, kind, **shape | config)
    return recipe(build, TEXT, flags(2, 9), dynamic=dynamic)


def decoder(family: str, **config: Any) -> Recipe:
    """A Llama-like causal language model with grouped queries, sequence length symbolic."""
    shape = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 6,
             "num_key_value_heads": 2, "intermediate_size": 40, "max_position_embeddings": 32,
             "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "use_cache": False}
    return recipe(tiny(family, "ForCausalLM", **shape | config), TEXT, dynamic=SEQUENCE)


def patches(family: str, **config: Any) -> Recipe:
    """A ViT-like image classifier."""
    shape = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
             "intermediate_size": 40, "image_size": 32, "patch_size": 8}
    return recipe(tiny(family, CLASSIFY, **shape | LABELS | config), IMAGE)


def speech(family: str, **config: Any) -> Recipe:
    """A wav2vec2-like model over raw samples with a CTC head."""
    shape = {"vocab_size": 11, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
             "intermediate_size": 40, "conv_dim": (6, 10, 14), "conv_kernel": (5, 3, 2),
             "conv_stride": (4, 2, 2), "num_feat_extract_layers": 3,
             "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2}
    return recipe(tiny(family, "ForCTC", **shape | config), floats(2, 400))


VISION = catalogue(
    resnet=recipe(tiny("ResNet", CLASSIFY, embedding_size=6, hidden_sizes=[8, 12, 20],
                       depths=[2, 1, 1], layer_type="basic", **LABELS), IMAGE,
                  dynamic={"pixel_values": {2: "h", 3: "w"}}),
    resnet_bottleneck=recipe(tiny("ResNet", CLASSIFY, embedding_size=6, hidden_sizes=[16, 24],
                                  depths=[2, 1], **LABELS), IMAGE),
    convnext=recipe(tiny("ConvNext", CLASSIFY, hidden_sizes=[6, 10, 14, 18],
                         depths=[1, 1, 2, 1], **LABELS), IMAGE),
    convnextv2=recipe(tiny("ConvNextV2", CLASSIFY, hidden_sizes=[6, 10, 14, 18],
                           depths=[1, 1, 2, 1], **LABELS), IMAGE),
    regnet_x=recipe(tiny("RegNet", CLASSIFY, embedding_size=6, hidden_sizes=[8, 12, 16, 24],
                         depths=[1, 2, 1, 1], groups_width=4, layer_type="x", **LABELS), IMAGE),
    regnet_y=recipe(tiny("RegNet", CLASSIFY, embedding_size=6, hidden_sizes=[8, 12, 16, 24],
                         depths=[1, 2, 1, 1], groups_width=4, layer_type="y", **LABELS), IMAGE),
    mobilenet_v1=recipe(tiny("MobileNetV1", CLASSIFY, depth_multiplier=0.25, min_depth=6,
                             **LABELS), IMAGE),
    mobilenet_v2=recipe(tiny("MobileNetV2", CLASSIFY, depth_multiplier=0.25, depth_divisible_by=2,
                             min_depth=4, finegrained_output=True, **LABELS), IMAGE),
    mobilevit=recipe(tiny("MobileViT", CLASSIFY, image_size=64, hidden_sizes=[12, 16, 20],
                          neck_hidden_sizes=[6, 8, 10, 12, 14, 16, 18], num_attention_heads=2,
                          **LABELS), floats(2, 3, 64, 64)),
    mobilevitv2=recipe(tiny("MobileViTV2", CLASSIFY, image_size=64, width_multiplier=0.125,
                            n_attn_blocks=[1, 1, 1], **LABELS), floats(2, 3, 64, 64)),
    efficientnet=recipe(tiny("EfficientNet", CLASSIFY, image_size=32, width_coefficient=0.0625,
                             depth_coefficient=0.5, hidden_dim=80, depth_divisor=2, **LABELS),
                        IMAGE),
    swin=recipe(tiny("Swin", CLASSIFY, image_size=32, patch_size=2, embed_dim=12, depths=[2, 2],
                     num_heads=[3, 6], window_size=4, **LABELS), IMAGE),
    swinv2=recipe(tiny("Swinv2", CLASSIFY, image_size=32, patch_size=2, embed_dim=12,
                       depths=[2, 2], num_heads=[3, 6], window_size=4, **LABELS), IMAGE),
    segformer=recipe(tiny("Segformer", "ForSemanticSegmentation", num_encoder_blocks=3,
                          depths=[1, 2, 1], sr_ratios=[4, 2, 1], hidden_sizes=[6, 12, 20],
                          patch_sizes=[7, 3, 3], strides=[4, 2, 2], num_attention_heads=[1, 2, 5],
                          mlp_ratios=[2, 3, 2], decoder_hidden_size=14, **LABELS), IMAGE),
    pvt=recipe(tiny("Pvt", CLASSIFY, image_size=32, num_encoder_blocks=3, depths=[1, 2, 1],
                    sequence_reduction_ratios=[4, 2, 1], hidden_sizes=[6, 12, 20],
                    patch_sizes=[4, 2, 2], strides=[4, 2, 2], num_attention_heads=[1, 2, 5],
                    mlp_ratios=[2, 3, 2], **LABELS), IMAGE),
    pvt_v2=recipe(tiny("PvtV2", CLASSIFY, image_size=32, num_encoder_blocks=3, depths=[1, 2, 1],
                       sr_ratios=[4, 2, 1], hidden_sizes=[6, 12, 20], patch_sizes=[7, 3, 3],
                       strides=[4, 2, 2], num_attention_heads=[1, 2, 5], mlp_ratios=[2, 3, 2],
                       **LABELS), IMAGE),
    poolformer=recipe(tiny("PoolFormer", CLASSIFY, hidden_sizes=[6, 10, 14, 18],
                           depths=[1, 2, 1, 1], **LABELS), IMAGE),
    levit=recipe(tiny("Levit", CLASSIFY, image_size=64, hidden_sizes=[16, 24, 32],
                      num_attention_heads=[2, 3, 4], key_dim=[4, 4, 4], depths=[1, 2, 1],
                      down_ops=[["Subsample", 4, 4, 4, 2, 2], ["Subsample", 4, 6, 4, 2, 2]],
                      **LABELS), floats(2, 3, 64, 64)),
    cvt=recipe(tiny("Cvt", CLASSIFY, embed_dim=[6, 12, 20], num_heads=[1, 2, 5], depth=[1, 2, 3],
                    **LABELS), floats(2, 3, 64, 64)),
    focalnet=recipe(tiny("FocalNet", CLASSIFY, image_size=32, patch_size=4, embed_dim=10,
                         hidden_sizes=[10, 20], depths=[2, 1], focal_levels=[2, 2],
                         focal_windows=[3, 3], **LABELS), IMAGE),
    swiftformer=recipe(tiny("SwiftFormer", CLASSIFY, depths=[1, 1, 2, 1],
                            embed_dims=[6, 10, 14, 18], mlp_ratio=2, **LABELS),
                       floats(2, 3, 64, 64)),
    dinov2=patches("Dinov2", mlp_ratio=2),
    vit=patches("ViT"),
    vit_eager=patches("ViT", attn_implementation="eager"),
    vit_sdpa=patches("ViT", attn_implementation="sdpa"),
    deit=patches("DeiT"),
    beit=patches("Beit", use_relative_position_bias=True),
    data2vec_vision=patches("Data2VecVision", use_shared_relative_position_bias=True),
    clip_vision=recipe(tiny("CLIPVision", "ModelWithProjection", hidden_size=24,
                            num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
                            image_size=32, patch_size=8, projection_dim=10), IMAGE),
)

TOKENS = catalogue(
    bert=encoder("Bert", "ForSequenceClassification"),
    bert_eager=encoder("Bert", "ForSequenceClassification", attn_implementation="eager"),
    bert_sdpa=encoder("Bert", "ForMaskedLM", attn_implementation="sdpa"),
    roberta=encoder("Roberta", "ForTokenClassification", pad_token_id=1,
                    max_position_embeddings=32),
    electra=encoder("Electra", "ForSequenceClassification", embedding_size=14),
    albert=encoder("Albert", "ForMaskedLM", embedding_size=14),
    distilbert=recipe(tiny("DistilBert", "ForSequenceClassification", vocab_size=61, dim=24,
                           n_layers=2, n_heads=3, hidden_dim=40, max_position_embeddings=20),
                      TEXT, flags(2, 9)),
    deberta_v2=encoder("DebertaV2", "ForSequenceClassification", relative_attention=True,
                       pos_att_type=["p2c", "c2p"], position_buckets=8),
    mpnet=encoder("MPNet", "ForMaskedLM", max_position_embeddings=32),
    data2vec_text=encoder("Data2VecText", "ForMaskedLM", max_position_embeddings=32),
    gpt2=recipe(tiny("GPT2", "LMHeadModel", vocab_size=61, n_embd=24, n_layer=2, n_head=3,
                     n_inner=40, n_positions=32, use_cache=False, bos_token_id=1, eos_token_id=2),
                TEXT, dynamic=SEQUENCE),
    gpt_neox=recipe(tiny("GPTNeoX", "ForCausalLM", vocab_size=61, hidden_size=24,
                         num_hidden_layers=2, num_attention_heads=3, intermediate_size=40,
                         max_position_embeddings=32, use_cache=False), TEXT, dynamic=SEQUENCE),
    opt=recipe(tiny("OPT", "ForCausalLM", vocab_size=61, hidden_size=24, num_hidden_layers=2,
                    num_attention_heads=3, ffn_dim=40, word_embed_proj_dim=14,
                    max_position_embeddings=32, use_cache=False), TEXT, dynamic=SEQUENCE),
    llama=decoder("Llama"),
    llama_eager=decoder("Llama", attn_implementation="eager"),
    llama_sdpa=decoder("Llama", attn_implementation="sdpa"),
    mistral=decoder("Mistral", sliding_window=4),
    qwen2=decoder("Qwen2"),
    qwen3=decoder("Qwen3", head_dim=8),
    gemma=decoder("Gemma", head_dim=8),
    phi3=decoder("Phi3"),
    olmo2=decoder("Olmo2"),
    mixtral=decoder("Mixtral", num_local_experts=4, experts_implementation="batched_mm"),
    mamba=recipe(tiny("Mamba", "ForCausalLM", vocab_size=61, hidden_size=10, num_hidden_layers=2,
                      state_size=4, time_step_rank=3, use_cache=False), TEXT),
    t5_encoder=recipe(tiny("T5", "EncoderModel", vocab_size=61, d_model=24, d_kv=7, d_ff=40,
                           num_layers=2, num_heads=3), TEXT, flags(2, 9)),
    t5=recipe(tiny("T5", "ForConditionalGeneration", vocab_size=61, d_model=24, d_kv=7, d_ff=40,
                   num_layers=2, num_heads=3, feed_forward_proj="gated-gelu", use_cache=False),
              input_ids=TEXT, decoder_input_ids=whole(2, 6, below=61)),
    bart=recipe(tiny("Bart", "ForConditionalGeneration", vocab_size=61, d_model=24,
                     encoder_layers=2, decoder_layers=2, encoder_attention_heads=3,
                     decoder_attention_heads=2, encoder_ffn_dim=40, decoder_ffn_dim=36,
                     max_position_embeddings=32, use_cache=False),
                input_ids=TEXT, decoder_input_ids=whole(2, 6, below=61)),
    whisper_encoder=recipe(whisper_encoder, floats(2, 10, 24)),
    wav2vec2=speech("Wav2Vec2"),
    wav2vec2_stable=speech("Wav2Vec2", do_stable_layer_norm=True, feat_extract_norm="layer"),
    hubert=speech("Hubert"),
    data2vec_audio=speech("Data2VecAudio", num_conv_pos_embeddings=3),
    clip=recipe(tiny("CLIP", "Model", projection_dim=10, text_config={
        "vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3,
        "intermediate_size": 40, "max_position_embeddings": 20, "eos_token_id": 2,
    }, vision_config={
        "hidden_size": 28, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 44, "image_size": 32, "patch_size": 8,
    }), TEXT, IMAGE),
    detr=recipe(detr, IMAGE),
)

FAMILIES: dict[str, Callable[[], Sample]] = {**VISION, **TOKENS}
