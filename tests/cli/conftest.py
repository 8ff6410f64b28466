"""What holds for every command line that these tests run."""

import pytest
from click.testing import CliRunner
from messages import lines_of_errors, strange_to_command


@pytest.fixture(autouse=True)
def _messages_name_what_can_be_typed(monkeypatch):
    """Check each error and each warning that a command prints, whatever test it is run in."""
    invoke = CliRunner.invoke

    def checked(self, program, arguments=(), **settings):
        result = invoke(self, program, arguments, **settings)
        command = next((one for one in arguments if one in program.commands), "")
        for message in lines_of_errors(result.stderr):
            strange = strange_to_command(command, list(arguments), message)
            assert not strange, f"{command} names {strange}, which it does not have: {message}"
        return result

    monkeypatch.setattr(CliRunner, "invoke", checked)
