"""Why a build was refused, in words that name the file or the field and the fix."""


class BuildError(Exception):
    """A repository cannot be built or is not what it claims to be; the message names the file or field at fault."""
