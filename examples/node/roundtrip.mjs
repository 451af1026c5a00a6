// node roundtrip.mjs MODEL_FOLDER IN.wav CODES.json OUT.wav
// A WAV file, 16 bit, one channel, at the model's rate, to codes and back, frame by frame as a live stream would.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import ort from "onnxruntime-node";

const OPTIONS = { intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 3 };

/** Samples in [-1, 1) and their rate. */
function readWav(path) {
  const file = readFileSync(path);
  if (file.toString("latin1", 0, 4) !== "RIFF" || file.toString("latin1", 8, 12) !== "WAVE") {
    throw new Error(`${path}: not a WAV file`);
  }
  let sampleRate;
  for (let at = 12; at + 8 <= file.length; ) {
    const id = file.toString("latin1", at, at + 4);
    const size = file.readUInt32LE(at + 4);
    const body = file.subarray(at + 8, at + 8 + size);
    if (id === "fmt ") {
      sampleRate = body.readUInt32LE(4);
      const [format, channels, bits] = [body.readUInt16LE(0), body.readUInt16LE(2), body.readUInt16LE(14)];
      if (format !== 1 || channels !== 1 || bits !== 16) {
        throw new Error(`${path}: expected 16 bit PCM with one channel`);
      }
    } else if (id === "data") {
      const samples = new Float32Array(body.length >> 1);
      for (let i = 0; i < samples.length; i++) samples[i] = body.readInt16LE(2 * i) / 32768;
      return { samples, sampleRate };
    }
    at += 8 + size + (size % 2); // chunks begin at even bytes
  }
  throw new Error(`${path}: no samples`);
}

function writeWav(path, samples, sampleRate) {
  const file = Buffer.alloc(44 + 2 * samples.length);
  file.write("RIFF", 0, "latin1");
  file.writeUInt32LE(36 + 2 * samples.length, 4);
  file.write("WAVEfmt ", 8, "latin1");
  file.writeUInt32LE(16, 16);
  file.writeUInt16LE(1, 20);
  file.writeUInt16LE(1, 22);
  file.writeUInt32LE(sampleRate, 24);
  file.writeUInt32LE(2 * sampleRate, 28);
  file.writeUInt16LE(2, 32);
  file.writeUInt16LE(16, 34);
  file.write("data", 36, "latin1");
  file.writeUInt32LE(2 * samples.length, 40);
  samples.forEach((x, i) => file.writeInt16LE(Math.max(-32768, Math.min(32767, Math.round(32768 * x))), 44 + 2 * i));
  writeFileSync(path, file);
}

/** One graph: its inputs are the block and state_0, state_1, ...; its outputs the result and next_state_0, ... */
class Graph {
  static async open(folder, name) {
    const graph = new Graph();
    // By path, not as bytes: the weights lie in another file of the same folder.
    graph.session = await ort.InferenceSession.create(join(folder, name), OPTIONS);
    graph.reset();
    return graph;
  }

  /** Zeros: the state before the first block. */
  reset() {
    this.state = {};
    for (const input of this.session.inputMetadata) {
      if (!input.name.startsWith("state_")) continue;
      const dims = [1, ...input.shape.slice(1)];
      const size = dims.reduce((a, b) => a * b, 1);
      const data = input.type === "int64" ? new BigInt64Array(size) : new Float32Array(size);
      this.state[input.name] = new ort.Tensor(input.type, data, dims);
    }
  }

  async step(name, block, result) {
    const outputs = await this.session.run({ [name]: block, ...this.state });
    for (const state of Object.keys(this.state)) this.state[state] = outputs[`next_${state}`];
    return outputs[result];
  }
}

const [folder, wavIn, codesOut, wavOut] = process.argv.slice(2);
if (!wavOut) {
  console.error("usage: node roundtrip.mjs MODEL_FOLDER IN.wav CODES.json OUT.wav");
  process.exit(2);
}
const { info } = JSON.parse(readFileSync(join(folder, "model.json"), "utf8"));
const { samples, sampleRate } = readWav(wavIn);
if (sampleRate !== info.sample_rate) throw new Error(`${wavIn}: ${sampleRate} Hz, the model has ${info.sample_rate}`);

// The output is late by `delay` samples: as many zeros after the end bring out the last ones.
const hop = info.hop_length;
const nFrames = Math.ceil((samples.length + info.delay) / hop);
const padded = new Float32Array(nFrames * hop);
padded.set(samples);

const encoder = await Graph.open(folder, "encoder.onnx");
const codes = info.codebook_sizes.map(() => []);
for (let frame = 0; frame < nFrames; frame++) {
  const block = new ort.Tensor("float32", padded.slice(frame * hop, (frame + 1) * hop), [1, 1, hop]);
  const found = (await encoder.step("audio", block, "codes")).data;
  codes.forEach((row, i) => row.push(Number(found[i])));
}
writeFileSync(codesOut, JSON.stringify(codes) + "\n");

const decoder = await Graph.open(folder, "decoder.onnx");
const audio = new Float32Array(nFrames * hop);
for (let frame = 0; frame < nFrames; frame++) {
  const column = BigInt64Array.from(codes, (row) => BigInt(row[frame]));
  const block = new ort.Tensor("int64", column, [1, codes.length, 1]);
  audio.set((await decoder.step("codes", block, "audio")).data, frame * hop);
}
writeWav(wavOut, audio.subarray(info.delay, info.delay + samples.length), sampleRate);
console.log(`${nFrames} frames of ${codes.length} codes`);
