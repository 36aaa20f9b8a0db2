"""Pages of metrics as Triton gives them."""

PAGE = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{{model="transcribe",version="1"}} 6
# HELP transcriber_output_tokens_total Tokens committed
# TYPE transcriber_output_tokens_total counter
transcriber_output_tokens_total{{model="whisper_decoder"}} {tokens}
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
IDLE = {"tokens": 0, "pending": 0, "requests": 0, "queued": 0, "in_flight": 0, "slots": 0}


def page(**figures: float) -> str:
    """A page of an idle Triton but for these figures."""
    return PAGE.format(**(IDLE | figures))
