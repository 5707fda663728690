"""MilcoForSparseEncoding: encoder → connector → LexEcho head → one vector over English terms and source tokens."""

import inspect
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import MODEL_MAPPING, AutoModel, PreTrainedModel
from transformers.activations import ACT2FN
from transformers.utils import ModelOutput

from .alignment_loss import smse
from .configuration_milco import MilcoConfig
from .language_adapters import keep_states_dtype
from .lexecho_head import log_sat, pooled_logits
from .text_encoding import TextEncodingMixin
from .unpadded import check_unpadded, encode
from .view_pruning import prune_vectors


@dataclass
class MilcoOutput(ModelOutput):
    """What [`MilcoForSparseEncoding`] returns.

    Args:
        loss: SMSE against `labels`, averaged over texts; only where labels were given.
        embeddings: Pivot view and source view side by side, shape [batch, V_e + V_s], fp32.
        pivot_logits: Pooled English logits t̃, before LogSat, shape [batch, V_e], fp32.
        pivot_view: English weights t = LogSat(t̃), shape [batch, V_e], fp32.
        source_weights: Weight w_i of each source token, shape [batch, tokens], fp32; 0 where a token does not echo.
        hidden_states: The encoder's, if asked for.
        attentions: The encoder's, if asked for.
    """

    loss: Tensor | None = None
    embeddings: Tensor | None = None
    pivot_logits: Tensor | None = None
    pivot_view: Tensor | None = None
    source_weights: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class Connector(nn.Module):
    """φ(H) = act(Linear(H)): the encoder's space into the English head's (paper, section 3.1)."""

    def __init__(self, config: MilcoConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.pivot_hidden_size)
        self.activation = ACT2FN[config.connector_act]

    def forward(self, hidden: Tensor) -> Tensor:
        return self.activation(self.dense(hidden))  # [batch, tokens, d_e], or [tokens, d_e] without padding


class LexEchoDecoder(nn.Linear):
    """Rows of the English vocabulary and, where the head holds it, one last row for [ECHO]."""

    def __init__(self, config: MilcoConfig):
        super().__init__(config.pivot_hidden_size, config.decoder_rows)
        self.echo_row = config.decoder_rows > config.pivot_vocab_size


class LexEchoHead(nn.Module):
    """The English MLM head: its own transform Z = LayerNorm(act(Linear(φ(H)))), then the LexEcho decoder."""

    def __init__(self, config: MilcoConfig):
        super().__init__()
        width = config.pivot_hidden_size
        self.dense = nn.Linear(width, width, bias=config.pivot_transform_bias)
        self.activation = ACT2FN[config.pivot_hidden_act]
        self.norm = nn.LayerNorm(width, eps=config.pivot_norm_eps, bias=config.pivot_norm_bias)
        self.decoder = LexEchoDecoder(config)
        self.pivot_vocab_size = config.pivot_vocab_size
        self.chunk_elements = config.head_chunk_elements
        self.backend = config.head_backend

    def forward(
        self,
        connected: Tensor,
        mask: Tensor | None = None,
        cu_seqlens: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Scores English terms and, where the decoder has the row, [ECHO].

        Args:
            connected: φ(H), shape [batch, tokens, d_e] with `mask`, or [tokens of all texts, d_e] with `cu_seqlens`.
            mask: Nonzero for real tokens, shape [batch, tokens].
            cu_seqlens: Where each text begins, and at last the number of tokens, shape [batch + 1].

        Returns:
            Pooled English logits [batch, V_e], and [ECHO]'s of each token, shaped as `connected` without d_e, or None.
        """
        transformed = self.norm(self.activation(self.dense(connected)))  # [..., d_e]
        weight, bias, terms = self.decoder.weight, self.decoder.bias, self.pivot_vocab_size
        pooled, _ = pooled_logits(
            *(transformed, weight[:terms], bias[:terms], mask, self.chunk_elements, self.backend),
            cu_seqlens=cu_seqlens,
            with_winners=False,
        )
        if not self.decoder.echo_row:
            return pooled, None
        return pooled, nn.functional.linear(transformed, weight[terms:], bias[terms:]).squeeze(-1)


class EncoderEcho(nn.Module):
    """[ECHO] as the research release has it: a linear layer on H, whose activation is multiplied by a learned scale."""

    def __init__(self, config: MilcoConfig):
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, 1)
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dense(hidden).squeeze(-1)  # [batch, tokens]


class MilcoPreTrainedModel(PreTrainedModel):
    """What transformers needs to know to load, place and initialise MILCO models."""

    config_class = MilcoConfig
    base_model_prefix = "milco"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    # `forward` returns a mean over texts, so Trainer must not divide it by a count of its own
    accepts_loss_kwargs = False

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, LexEchoDecoder) and module.echo_row and _is_new(module.bias):
            module.bias[-1] = self.config.echo_bias_init
        if isinstance(module, EncoderEcho):
            if _is_new(module.scale):
                module.scale.fill_(1.0)
            if _is_new(module.dense.bias):
                module.dense.bias.fill_(self.config.echo_bias_init)


class MilcoForSparseEncoding(TextEncodingMixin, MilcoPreTrainedModel):
    """MILCO, one learned sparse retriever for many languages (Nguyen et al., ICLR 2026, arXiv 2510.00671).

    score(q, d) = ⟨t_q, t_d⟩ + ⟨s_q, s_d⟩ is the inner product of two `embeddings`: English weights t (the pivot view)
    in the first V_e dimensions, weights s of echoed source tokens (the source view) in the other V_s.
    """

    def __init__(self, config: MilcoConfig):
        super().__init__(config)
        self.encoder = _encoder_without_pooler(config)
        keep_states_dtype(self.encoder)
        self.connector = Connector(config)
        self.head = LexEchoHead(config)
        self.echo = EncoderEcho(config) if config.echo and config.echo_source == "encoder" else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's token embeddings, [V_s, d_L]."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the encoder's token embeddings."""
        self.encoder.set_input_embeddings(value)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        language: str | None = None,
        return_embeddings: bool = True,
        source_view: bool = True,
        task: str | None = None,
        return_dict: bool | None = None,
        lang_ids: Tensor | None = None,
        max_active_dims: int | None = None,
        **kwargs,
    ) -> MilcoOutput | tuple:
        """Turns texts into sparse vectors.

        Args:
            input_ids: Dimensions of the source tokens, so V_e plus the encoder's ids, shape [batch, tokens].
            attention_mask: Nonzero for real tokens, shape [batch, tokens]; by default all are.
            token_type_ids: For encoders with token types, shape [batch, tokens].
            labels: The teacher's pooled logits t̃*, shape [batch, V_e]; with them the output holds the SMSE loss.
            language: For encoders with language adapters (X-MOD): the language of all texts, such as "de" or "de_DE";
                by default the configuration's `default_language`.
            return_embeddings: Whether to build the [batch, V_e + V_s] vectors; alignment needs the logits only.
            source_view: Whether source tokens echo; without, their dimensions stay 0.
            task: "query" or "document", as sentence-transformers says it, prunes `embeddings` as the configuration's
                `query_pruning` or `document_pruning` says; None prunes nothing.
            return_dict: False for a tuple.
            lang_ids: For encoders with language adapters: each text's, in place of `language`, as
                `config.adapter_ids` numbers them, shape [batch].
            max_active_dims: As sentence-transformers says it, which itself keeps so many dimensions: what is asked for
                wins, so that the configuration's pruning is left out.
            **kwargs: Passed to the encoder (`output_hidden_states`, `position_ids`, …). With `cu_seq_lens_q`, as
                sentence-transformers passes it with flash attention, the texts lie one after the other in one row:
                `input_ids` and `source_weights` are [1, tokens of all texts].

        Returns:
            The output of the model; see [`MilcoOutput`].

        Raises:
            ValueError: `input_ids` holds ids below V_e, made by another tokenizer than the checkpoint's; `language`
                is none of the encoder's, or there are no adapters; or the texts come without padding and the encoder
                would mix them.
        """
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        input_ids = self._source_ids(input_ids, mask)
        if token_type_ids is not None and getattr(self.config.encoder_config, "type_vocab_size", 0):
            kwargs["token_type_ids"] = token_type_ids
        if self.config.languages or language is not None or lang_ids is not None:
            kwargs["lang_ids"] = self._adapter_ids(language, lang_ids, input_ids)
        given = kwargs.get("cu_seq_lens_q")
        if given is not None:
            check_unpadded(self.encoder.config, input_ids, attention_mask)
        source_ids = input_ids - self.config.pivot_vocab_size
        hidden, unpadded, encoded = encode(self.encoder, source_ids, mask, kwargs)
        cu_seqlens = given if unpadded is None else unpadded.cu_seqlens
        pivot_logits, echo_logits = self.head(self.connector(hidden), mask if cu_seqlens is None else None, cu_seqlens)
        pivot_view = log_sat(pivot_logits)

        source_weights = None
        if self.config.echo and source_view:
            echo_logits = self.echo(hidden) if echo_logits is None else echo_logits
            echo_logits = unpadded.put_back(echo_logits) if unpadded is not None else echo_logits.view(input_ids.shape)
            source_weights = self._source_weights(echo_logits, input_ids, mask)
        embeddings = None
        if return_embeddings:
            embeddings = self._embeddings(pivot_view, source_weights, input_ids, given)
            forms = getattr(self.config, f"{task}_pruning", None) if max_active_dims is None else None
            embeddings = embeddings if forms is None else prune_vectors(embeddings, forms, pivot_view.shape[1])
        output = MilcoOutput(
            loss=None if labels is None else smse(pivot_logits, labels).mean(),
            embeddings=embeddings,
            pivot_logits=pivot_logits,
            pivot_view=pivot_view,
            source_weights=source_weights,
            hidden_states=encoded.get("hidden_states"),
            attentions=encoded.get("attentions"),
        )
        as_dict = self.config.return_dict if return_dict is None else return_dict
        return output if as_dict else output.to_tuple()

    def _source_weights(self, echo_logits: Tensor, input_ids: Tensor, mask: Tensor) -> Tensor:
        """w_i of each token, zero where it is padding or a special token that does not echo: shaped as `input_ids`."""
        weights = log_sat(echo_logits) if self.config.echo_activation == "log_sat" else torch.relu(echo_logits.float())
        if self.echo is not None:
            weights = weights * self.echo.scale.float()
        echoing = mask.bool()
        if not self.config.echo_special_tokens:
            for special in self.config.special_token_ids:
                echoing = echoing & (input_ids != special)
        return weights.masked_fill(~echoing, 0.0)

    def _embeddings(
        self, pivot_view: Tensor, source_weights: Tensor | None, input_ids: Tensor, cu_seqlens: Tensor | None
    ) -> Tensor:
        """Both views side by side, equal source tokens summed or their largest taken: [batch, V_e + V_s]."""
        width = self.config.source_vocab_size
        source = pivot_view.new_zeros((pivot_view.shape[0], width))
        if source_weights is not None:
            tokens = input_ids - self.config.pivot_vocab_size
            reduce = "sum" if self.config.echo_pooling == "sum" else "amax"
            if cu_seqlens is None:
                source = source.scatter_reduce(1, tokens, source_weights, reduce=reduce, include_self=True)
            else:
                text = torch.arange(len(source), device=tokens.device).repeat_interleave(
                    cu_seqlens.diff(), output_size=tokens.shape[1]
                )
                place, weights = text * width + tokens[0], source_weights[0]
                source = source.flatten().scatter_reduce(0, place, weights, reduce=reduce, include_self=True)
                source = source.view(len(pivot_view), width)
        return torch.cat([pivot_view, source], dim=1)

    def _source_ids(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """Refuses English terms among the real tokens; padding becomes the encoder's own, whatever it was made with."""
        terms = self.config.pivot_vocab_size
        # sentence-transformers joins columns of unequal width with zeros, which are English terms here
        padding = terms if self.config.pad_token_id is None else self.config.pad_token_id
        input_ids = input_ids.masked_fill(mask == 0, padding)
        # Reading a number back from an accelerator makes it wait, so a training step there goes without the check:
        # its embedding kernel fails on a negative index.
        if input_ids.is_meta or torch.compiler.is_compiling() or (self.training and input_ids.device.type != "cpu"):
            return input_ids
        if input_ids.numel() and (lowest := int(input_ids.min())) < terms:
            raise ValueError(
                f"input_ids holds {lowest}, but ids below pivot_vocab_size={terms} are English terms, which no text "
                "has. Use the checkpoint's own tokenizer, AutoTokenizer.from_pretrained(checkpoint), or add "
                f"{terms} to the ids of the encoder's tokenizer."
            )
        return input_ids

    def _adapter_ids(self, language: str | None, lang_ids: Tensor | None, input_ids: Tensor) -> Tensor:
        """Adapter numbers of the texts' languages, [batch]."""
        texts = input_ids.shape[0]
        if language is not None and not isinstance(language, str):
            # SparseEncoder sorts texts by length, and would hand the list on as it is
            raise ValueError(
                f"language has to be one name for all texts here, got {language!r}. Texts of several languages: "
                "encode_text, encode_query and encode_document of the model or milco_hf.encode_corpus with one for "
                "each, or forward with lang_ids=config.adapter_ids([…])."
            )
        if lang_ids is None:
            adapter = None if language is None else self.config.language_adapter(language)
            return torch.tensor(self.config.adapter_ids([adapter] * texts), device=input_ids.device)
        if not self.config.languages:
            raise ValueError("lang_ids is for encoders with language adapters, and this one has none; leave it out.")
        if language is not None:
            raise ValueError(f"Give either language, here {language!r}, or lang_ids, not both.")
        if lang_ids.shape != (texts,):
            raise ValueError(f"lang_ids has the shape {list(lang_ids.shape)}, but there are {texts} texts: one each.")
        return lang_ids


def _is_new(parameter: nn.Parameter) -> bool:
    """Whether no checkpoint gave this parameter its values; transformers marks those that one did."""
    return not getattr(parameter, "_is_hf_initialized", False)


def _encoder_without_pooler(config: MilcoConfig) -> PreTrainedModel:
    """Builds the encoder, without a pooler where the class can leave it out: unused weights break DDP."""
    encoder_class = MODEL_MAPPING.get(type(config.encoder_config), None)
    options = {}
    if encoder_class is not None and "add_pooling_layer" in inspect.signature(encoder_class.__init__).parameters:
        options["add_pooling_layer"] = False
    return AutoModel.from_config(config.encoder_config, **options)


MilcoForSparseEncoding.register_for_auto_class("AutoModel")

__all__ = ["MilcoForSparseEncoding", "MilcoOutput", "MilcoPreTrainedModel"]
