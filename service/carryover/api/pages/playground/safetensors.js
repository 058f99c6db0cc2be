/** Safetensors files: https://github.com/huggingface/safetensors#format */

const KINDS = {
  F64: Float64Array, F32: Float32Array, F16: Uint16Array, BF16: Uint16Array, I64: BigInt64Array, I32: Int32Array,
  I16: Int16Array, I8: Int8Array, U8: Uint8Array, BOOL: Uint8Array,
};

/** The tensors of a file: name, datatype, shape, and all values. */
export function parse(file) {
  const start = 8 + Number(new DataView(file).getBigUint64(0, true));
  const header = Object.entries(JSON.parse(new TextDecoder().decode(file.slice(8, start))));
  return header.filter(([name]) => name !== "__metadata__").sort().map(([name, { dtype, shape, data_offsets: at }]) => {
    const values = Array.from(new KINDS[dtype](file.slice(start + at[0], start + at[1])), Number);
    return { name, dtype, shape, values: dtype.endsWith("F16") ? values.map(NARROW[dtype]) : values };
  });
}

const NARROW = {
  F16(bits) {
    const [exponent, fraction] = [(bits >> 10) & 31, (bits & 1023) / 1024];
    const finite = 2 ** ((exponent || 1) - 15) * (exponent ? 1 + fraction : fraction);
    const size = exponent < 31 ? finite : fraction ? NaN : Infinity;
    return bits >> 15 ? -size : size;
  },
  BF16: (bits) => new Float32Array(Uint32Array.of(bits << 16).buffer)[0],
};
