// node roundtrip.mjs MODEL_FOLDER IN.wav CODES.json OUT.wav
// A WAV file, 16 bit, one channel, at the model's rate, to codes and back: frame by frame as a live stream would; a model
// that looks ahead takes all of it at once.
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import ort from "onnxruntime-node";

const OPTIONS = { intraOpNumThreads: 1, interOpNumThreads: 1, logSeverityLevel: 3 };

/** Samples in [-1, 1) and their rate. */
function readWav(path) {
  const file = readFileSync(path);
  if (file.toString("latin1", 0, 4) !== "RIFF" || file.toString("latin1", 8, 12) !== "WAVE") {
    stop(`${path}: not a WAV file`);
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
        stop(`${path}: expected 16 bit PCM with one channel`);
      }
    } else if (id === "data") {
      const samples = new Float32Array(body.length >> 1);
      for (let i = 0; i < samples.length; i++) samples[i] = body.readInt16LE(2 * i) / 32768;
      return { samples, sampleRate };
    }
    at += 8 + size + (size % 2); // chunks begin at even bytes
  }
  stop(`${path}: no samples`);
}

/** An error of ours: one line, as the command line of the package prints it. */
function stop(message) {
  console.error(message);
  process.exit(1);
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
const CAUSAL = { encoder_lookahead: 0, decoder_lookahead: 0, encoder_start: 1, decoder_start: 1 }; // where nothing is said
const info = { ...CAUSAL, ...JSON.parse(readFileSync(join(folder, "model.json"), "utf8")).info };
if (info.condition) stop(`${folder}: decodes with a vector beside the codes; this example passes codes alone, use Python`);
if (info.segments) stop(`${folder}: codes in segments that overlap; this example codes a signal as one, use Python`);
const { samples, sampleRate } = readWav(wavIn);
if (sampleRate !== info.sample_rate) stop(`${wavIn}: ${sampleRate} Hz, the model has ${info.sample_rate}`);
if (!samples.length) stop(`${wavIn}: no samples`);

// The output is late by `delay` samples: as many zeros after the end bring out the last ones. A `ragged` encoder fills a
// last frame that is not whole by itself, and zeros in its place would be another signal.
const hop = info.hop_length;
const nFrames = Math.ceil((samples.length + info.delay) / hop);
const padded = new Float32Array(info.ragged ? samples.length : nFrames * hop);
padded.set(samples);

/** First and end frame of each step: one frame, the first step as many as the graph needs; all where it looks ahead. */
function steps(lookahead, start) {
  const ends = lookahead === 0 ? [] : [nFrames];
  for (let end = Math.min(start, nFrames); lookahead === 0 && end <= nFrames; end++) ends.push(end);
  return ends.map((end, i) => [i ? ends[i - 1] : 0, end]);
}

const encoder = await Graph.open(folder, "encoder.onnx");
const codes = info.codebook_sizes.map(() => []);
for (const [first, end] of steps(info.encoder_lookahead, info.encoder_start)) {
  const part = padded.slice(first * hop, end * hop);
  const found = (await encoder.step("audio", new ort.Tensor("float32", part, [1, 1, part.length]), "codes")).data;
  found.forEach((code, at) => codes[Math.floor(at / (end - first))].push(Number(code)));
}
writeFileSync(codesOut, JSON.stringify(codes) + "\n");

const decoder = await Graph.open(folder, "decoder.onnx");
const audio = new Float32Array(nFrames * hop);
for (const [first, end] of steps(info.decoder_lookahead, info.decoder_start)) {
  const part = codes.flatMap((row) => row.slice(first, end));
  const block = new ort.Tensor("int64", BigInt64Array.from(part, BigInt), [1, codes.length, end - first]);
  audio.set((await decoder.step("codes", block, "audio")).data, first * hop);
}
writeWav(wavOut, audio.subarray(info.delay, info.delay + samples.length), sampleRate);
console.log(`${nFrames} frames of ${codes.length} codes`);
