"""The texts of a program of plain NumPy that are not written by the recorder."""

__all__ = [
    "ARRAY",
    "CATEGORY",
    "CSV",
    "DECODE",
    "FEEDFORWARD",
    "INPUTS",
    "INTRODUCTION_OF_NETWORK",
    "INTRODUCTION_OF_TABLE",
    "MAIN_OF_CLASSES",
    "MAIN_OF_NUMBERS",
    "NUMBERS",
    "PLACES",
    "PREDICT",
    "PREDICT_PROBA",
    "READ_NUMBERS",
    "READ_TABLE",
    "RUN",
    "TABLE_MAIN",
    "TABLE_MAIN_PROBA",
    "TABLE_PREDICT",
    "TABLE_PROBA",
    "TYPED_CATEGORIES",
]

INTRODUCTION_OF_NETWORK = '''\
"""A neural network that needs only NumPy. Written by bp_xp VERSION.

From the shell, with a row of numbers for each sample: python THIS_FILE rows.csv > predictions.csv
In Python: import this file, and call its predict(x) with x of shape (N, inputs).
"""
'''

INTRODUCTION_OF_TABLE = '''\
"""A neural network for tables that needs only NumPy. Written by bp_xp VERSION.

From the shell: python THIS_FILE rows.csv > predictions.csv. The first line must hold the names of
the columns; numbers have a decimal point, and dates have the form 2024-12-31.
In Python: import this file, and call its predict(table) with a mapping of names to columns, or a
data frame; None and NaN are missing values.
"""
'''

FEEDFORWARD = '''\
def feedforward(a):
    """Return the activations of the output layer, shape (N, {O}), for inputs a, shape (N, {I})."""
    for sigma, W, b in LAYERS:
        a = sigma(a @ W.T + b)
    return a
'''

ARRAY = '''\
def array(dtype, text, *shape):
    """Return an array from its bytes in base64."""
    return np.frombuffer(base64.b64decode(text), dtype).reshape(shape)
'''

RUN = """\
if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"usage: python {sys.argv[0]} rows.csv > predictions.csv")
    sys.stdout.reconfigure(encoding="utf-8")
    try:
        main(sys.argv[1])
    except KeyError as error:
        sys.exit(f"{sys.argv[1]} has no column {error}")
    except (OSError, ValueError) as error:
        sys.exit(f"{sys.argv[1]}: {error}")
"""

PREDICT_PROBA = '''\
def predict_proba(x):
    """Return the probability of each class, shape (N, K)."""
    return probabilities(feedforward(np.asarray(x, np.{dtype})))
'''

PREDICT = '''\
def predict(x):
    """Return the prediction for each row of x, shape (N, inputs)."""
    return {predicted}
'''

CSV = """\
    with open(path, newline="", encoding="utf-8-sig") as file:
        first = file.readline()
        file.seek(0)
        rows = [row for row in csv.reader(file, delimiter=max(",;\\t|", key=first.count)) if row]
    if not rows:
        sys.exit(f"{path} has no rows")
    for number, row in enumerate(rows, 1):
        if len(row) != len(rows[0]):
            sys.exit(f"{path}, row {number}: {len(row)} fields, but the first has {len(rows[0])}")
"""

READ_NUMBERS = (
    '''\
def read(path):
    """Return the numbers of a CSV file, shape (N, columns); a first line of names is left out."""
'''
    + CSV
    + """\
    if not any(cell.strip("+- ").replace(".", "", 1)[:1].isdigit() for cell in rows[0]):
        del rows[0]
    return np.array(rows, float)
"""
)

MAIN_OF_CLASSES = '''\
def main(path):
    """Write the label of each row, and the probability of each class."""
    x = read(path)
    found = predict_proba(x)
    out = csv.writer(sys.stdout, lineterminator="\\n")
    out.writerow(["label", *(f"probability of {k}" for k in range(found.shape[1]))])
    out.writerows([label, *row] for label, row in zip(predict(x).tolist(), found.tolist()))
'''

MAIN_OF_NUMBERS = '''\
def main(path):
    """Write the outputs of each row."""
    outputs = predict(read(path)).tolist()
    out = csv.writer(sys.stdout, lineterminator="\\n")
    out.writerow([f"output {k + 1}" for k in range(len(outputs[0]))])
    out.writerows(outputs)
'''

NUMBERS = '''\
def number_column(values, is_date):
    """Return a column as numbers, NaN if missing; dates as days since 1970."""
    values = [none_if_missing(value) for value in values]
    if is_date:
        since_1970 = np.array(values, "datetime64[us]") - np.datetime64(0, "us")
        return since_1970 / np.timedelta64(1, "D")
    return np.array([np.nan if value is None else float(value) for value in values])


def scaled_numbers(table):
    """Return the columns of numbers, scaled, and after them which values were missing."""
    median, center, scale = np.array([learned for _, _, *learned in NUMBERS]).T
    x = np.stack([number_column(table[name], is_date) for name, is_date, *_ in NUMBERS], axis=1)
    missing = np.isnan(x)
    x = np.where(missing, median, x)
    z = (x / 2 - center / 2) / (scale / 2)  # halves are subtracted, so that no difference overflows
ROBUST    return np.concatenate([z, missing[:, FLAGGED]], axis=1)
'''

PLACES = '''\
def places(table, name, holds, labels, other, missing):
    """Return a column of 0 and 1 for each category, the others, and the missing ones."""
    values = [none_if_missing(value) for value in table[name]]
    if holds == "dates":
        values = np.array(values, "datetime64[us]").tolist()
    x = np.zeros((len(values), len(labels) + other + missing))
    for row, value in enumerate(values):
        if value is None and missing:
            x[row, -1] = 1
        elif value is not None and label_of(value) in labels:
            x[row, labels.index(label_of(value))] = 1
        elif other:
            x[row, len(labels)] = 1
    return x
'''

INPUTS = '''\
def inputs(table):
    """Return the inputs of the network, shape (N, inputs)."""
    parts = [{parts}]
    with np.errstate(over="ignore"):
        x = np.concatenate(parts, axis=1).astype(np.{dtype})
    finite = np.isfinite(x).all(axis=1)
    if not finite.all():
        raise ValueError(f"row {{np.argmin(finite) + 1}}: a number is too large")
    return x
'''

DECODE = {
    "classification": '''\
def decode(outputs):
    """Return the class of each row, shape (N,)."""
    return np.array(CLASSES)[np.argmax(outputs, axis=1)]
''',
    "multilabel": '''\
def decode(outputs):
    """Return 0 or 1 for each target, shape (N, targets)."""
    return (outputs > 0.5).astype(np.int64)
''',
    "regression": '''\
def decode(outputs):
    """Return numbers in their units, shape (N,) for one target, otherwise (N, targets)."""
    values = outputs.astype(np.float64) * TARGET_SCALE + TARGET_CENTER
    return values[:, 0] if len(TARGETS) == 1 else values
''',
}

TABLE_PROBA = '''\
def predict_proba(table):
    """Return the probability of each class, or of each target, shape (N, K)."""
    return feedforward(inputs(table))
'''

TABLE_PREDICT = '''\
def predict(table):
    """Return the prediction for each row of a table."""
    return decode(feedforward(inputs(table)))
'''

READ_TABLE = (
    '''\
def read(path):
    """Return the columns of a CSV file by name; an empty field is missing."""
'''
    + CSV
    + """\
    header, *rows = rows
    table = {name: [] for name in header}
    for row in rows:
        for name, cell in zip(header, row):
            table[name].append(None if cell in MISSING_WORDS else cell)
TYPED    return table
"""
)

TYPED_CATEGORIES = """\
    for name, holds, *_ in CATEGORIES:
        if name in table and holds in ("numbers", "truth values"):
            table[name] = [category(cell, holds) for cell in table[name]]
"""

CATEGORY = '''\
def category(cell, holds):
    """Return a field as a number or a truth value, if it is one."""
    if cell is None or holds == "truth values":
        return cell and cell.lower()
    try:
        return float(cell)
    except ValueError:
        return cell
'''

TABLE_MAIN = '''\
def main(path):
    """Write the predictions for each row."""
    found = predict(read(path)).reshape(-1, len(TARGETS)).tolist()
    out = csv.writer(sys.stdout, lineterminator="\\n")
    out.writerow(TARGETS)
    out.writerows(found)
'''

TABLE_MAIN_PROBA = '''\
def main(path):
    """Write the predictions for each row, and the probability of each class or target."""
    outputs = feedforward(inputs(read(path)))
    found = decode(outputs).reshape(len(outputs), -1).tolist()
    out = csv.writer(sys.stdout, lineterminator="\\n")
    out.writerow([*TARGETS, *(f"probability of {name}" for name in KNOWN)])
    out.writerows([*row, *probabilities] for row, probabilities in zip(found, outputs.tolist()))
'''
