"""The command `transcriber`: serve a TranscriberDeployment on this machine, transcribe files, build and check repositories."""
