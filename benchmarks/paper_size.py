"""Random weights at the paper's size: XLM-R large, V_s 250,002, d_e 768, V_e 30,522; and a small one to try things."""

from __future__ import annotations

from transformers import XLMRobertaConfig

from milco_hf.modeling import MilcoConfig


def paper_config(small: bool = False, **settings: object) -> MilcoConfig:
    """A MILCO's configuration.

    Args:
        small: Two layers of 64, 2,000 source tokens and 1,000 English terms in place of the paper's.
        **settings: Of the MILCO.
    """
    sizes = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    source, terms, width = 250_002, 30_522, 768
    if small:
        sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
        source, terms, width = 2000, 1000, 48
    encoder = XLMRobertaConfig(
        **sizes,
        vocab_size=source,
        max_position_embeddings=514,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    special = [terms + token for token in (0, 1, 2)]
    return MilcoConfig(
        encoder_config=encoder,
        pivot_vocab_size=terms,
        pivot_hidden_size=width,
        special_token_ids=special,
        **settings,
    )


__all__ = ["paper_config"]
