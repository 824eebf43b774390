"""What of vLLM this plugin holds on to."""

from __future__ import annotations

from gream.seams import Seam

_INTERFACE = "vllm.v1.sample.logits_processor"
_BATCH = "vllm.v1.worker.gpu_input_batch"

SEAMS = (
    Seam(_INTERFACE, "LogitsProcessor.apply", ("logits",)),
    Seam(_INTERFACE, "LogitsProcessor.update_state", ("batch_update",)),
    Seam(_INTERFACE, "BatchUpdate", ("removed", "added", "moved")),
    Seam(_INTERFACE, "MoveDirectionality.SWAP"),
    # What is sampled stands in the lists of `added` by the time that logits come.
    Seam(_BATCH, "InputBatch", ("logitsprocs_need_output_token_ids",)),
    Seam(_BATCH, "InputBatch.update_async_output_token_ids"),
)
