"""The callback that writes the log of `llamafactory_gream.order`, from what the model is really given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gream.files import jsonl_line, read_jsonl, write_jsonl
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llamafactory_gream.order import LOG, text_hash


class OrderLog(TrainerCallback):
    """Logs the text of each row of every forward pass in training, in each rank.

    It looks at the model's input and not at a sampler or a data loader: neither shards, nor rows fetched in advance,
    nor worker processes stand between it and what is trained on.
    """

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the log; a resumed run goes on with it where its checkpoint was written."""
        path = Path(args.output_dir) / LOG.format(args.process_index)
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = {"step": int}
        earlier = read_jsonl(path, fields=fields, unfinished=True, remedy="remove it") if path.exists() else []
        write_jsonl(path, (line for line in earlier if line["step"] < state.global_step))
        self._stream = path.open("a", encoding="utf-8")
        tokenizer = kwargs["processing_class"]

        def log(model: Any, _: Any, inputs: dict[str, Any]) -> None:
            if not model.training:
                return
            tokens, mask = inputs["input_ids"], inputs.get("attention_mask")
            # Packed rows have no mask of their own.
            shown = mask.bool() if mask is not None and mask.shape == tokens.shape else tokens == tokens
            rows = [row[keep].tolist() for row, keep in zip(tokens, shown, strict=True)]
            texts = tokenizer.batch_decode(rows, skip_special_tokens=False, clean_up_tokenization_spaces=False)
            line = {"step": state.global_step, "ranks": args.world_size, "rows": [text_hash(text) for text in texts]}
            self._stream.write(jsonl_line(line))
            self._stream.flush()

        self._hook = kwargs["model"].register_forward_pre_hook(log, with_kwargs=True)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the log."""
        self._hook.remove()
        self._stream.close()
