"""Insides of SGLang that this plugin holds on to."""

from __future__ import annotations

from gream.seams import Seam

BEAM = "sglang.srt.beam_search.coordinator"
OUTPUT = "sglang.srt.managers.scheduler_components.output_streamer"
SCHEDULER = "sglang.srt.managers.scheduler"

SEAMS = (
    Seam("sglang.srt.plugins.hook_registry", "HookRegistry.register", ("target", "hook", "hook_type")),
    Seam(BEAM, "_rows_topk_logprobs", ("pieces", "num_candidates")),
    Seam(BEAM, "BeamCoordinator.validate_and_init", ("req", "recv_req")),
    Seam(
        BEAM,
        "BeamCoordinator._select_group",
        ("group", "top_logprobs", "top_tokens", "tick"),
        ("joint_select", "select_final_topk", "next_step_is_final", "advance_frontier"),
    ),
    Seam(BEAM, "BeamCoordinator.select_leader_prefill", (), ("_rows_topk_logprobs", "_select_group")),
    Seam(BEAM, "BeamCoordinator.select_and_relay_decode", (), ("_rows_topk_logprobs", "_select_group")),
    Seam(BEAM, "BeamCoordinator.retire_group", ("req",)),
    Seam("sglang.srt.beam_search.joint_select", "SelectResult"),
    Seam("sglang.srt.beam_search.beam_group", "BeamGroup.advance_frontier", ("sel", "tick")),
    Seam("sglang.srt.beam_search.beam_group", "BeamGroup.beam_score", (), ("length_penalty",)),
    Seam("sglang.srt.beam_search.beam_group", "BeamGroup._commit_step", (), ("num_survivors", "num_finished")),
    Seam(OUTPUT, "pack_beam_search_output", ("req",)),
    Seam(SCHEDULER, "Scheduler.init_beam_coordinator", (), ("beam_coordinator", "req_to_token_pool")),
    Seam(SCHEDULER, "Scheduler.get_init_info"),
)
