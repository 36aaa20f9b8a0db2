"""Pages of metrics as Triton gives them."""

PAGE = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{{model="transcribe",version="1"}} 6
# HELP transcriber_output_tokens_total Tokens committed
# TYPE transcriber_output_tokens_total counter
transcriber_output_tokens_total{{model="whisper_decoder"}} {tokens}
# HELP transcriber_draft_tokens_total Tokens drafted
# TYPE transcriber_draft_tokens_total counter
transcriber_draft_tokens_total{{model="whisper_decoder"}} {drafted}
# HELP transcriber_accepted_tokens_total Drafted tokens that the target committed
# TYPE transcriber_accepted_tokens_total counter
transcriber_accepted_tokens_total{{model="whisper_decoder"}} {accepted}
# HELP transcriber_cycles_total Verifications by the target
# TYPE transcriber_cycles_total counter
transcriber_cycles_total{{model="whisper_decoder"}} {cycles}
# HELP transcriber_admitted_requests_total Requests taken in
# TYPE transcriber_admitted_requests_total counter
transcriber_admitted_requests_total{{model="transcribe"}} {admitted_requests}
# HELP transcriber_admitted_audio_seconds_total Seconds
# TYPE transcriber_admitted_audio_seconds_total counter
transcriber_admitted_audio_seconds_total{{model="transcribe"}} {admitted}
# HELP transcriber_decoded_audio_seconds_total Seconds
# TYPE transcriber_decoded_audio_seconds_total counter
transcriber_decoded_audio_seconds_total{{model="transcribe"}} {decoded}
# HELP transcriber_server_start_time_seconds Unix time
# TYPE transcriber_server_start_time_seconds gauge
transcriber_server_start_time_seconds{{model="transcribe"}} {started}
# HELP transcriber_canaries_in_progress Canaries
# TYPE transcriber_canaries_in_progress gauge
transcriber_canaries_in_progress{{model="transcribe"}} {canaries}
# HELP nv_inference_pending_request_count Instantaneous number of pending requests awaiting execution per-model.
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{{model="whisper_decoder",version="1"}} {pending}
nv_inference_pending_request_count{{model="whisper_encoder",version="1"}} {pending}
# HELP transcriber_requests_in_progress Requests
# TYPE transcriber_requests_in_progress gauge
transcriber_requests_in_progress{{model="transcribe"}} {requests}
# HELP transcriber_queued_audio_seconds Seconds
# TYPE transcriber_queued_audio_seconds gauge
transcriber_queued_audio_seconds{{model="transcribe"}} {queued}
# HELP transcriber_in_flight_audio_seconds Seconds
# TYPE transcriber_in_flight_audio_seconds gauge
transcriber_in_flight_audio_seconds{{model="transcribe"}} {in_flight}
# HELP transcriber_slots_active Slots that decode a window
# TYPE transcriber_slots_active gauge
transcriber_slots_active{{model="whisper_decoder"}} {slots}
"""
NAMES = (
    *("tokens", "drafted", "accepted", "cycles", "admitted_requests", "admitted", "decoded"),
    *("started", "canaries", "pending", "requests", "queued", "in_flight", "slots"),
)
IDLE = dict.fromkeys(NAMES, 0)


def page(**figures: object) -> str:
    """A page of an idle Triton but for these figures."""
    return PAGE.format(**(IDLE | figures))
