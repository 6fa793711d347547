"""Lines per file, largest first; marks files over 300 lines and methods over 60 (blank lines aside).

A number is a question, not a verdict: the exit status is 0 whatever it says.
"""

from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "gossamer"
FILE, METHOD = 300, 60


def main() -> None:
    total = 0
    sizes = sorted(((len(file.read_text().splitlines()), file) for file in PACKAGE.rglob("*.py")), reverse=True)
    for lines, file in sizes:
        total += lines
        name = file.relative_to(PACKAGE.parent)
        code = sum(bool(line.strip()) for line in file.read_text().splitlines())
        method = name.parts[1] == "methods" and file.stem != "__init__"
        mark = f"  over {METHOD}: {code} without blanks" if method and code > METHOD else ""
        print(f"{lines:6}  {name}{f'  over {FILE}' if lines > FILE else mark}")
    print(f"{total:6}  lines in {len(sizes)} files")


if __name__ == "__main__":
    main()
