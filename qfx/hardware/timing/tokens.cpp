// The turns of all processes of a design, one frame after the other: what simulate.py's generators do, a hundred times as fast. Same order of rules,
// same numbers; the Python is the definition, and a test compares. Compiled on demand by tokens.py.
#include <stddef.h>
#include <stdint.h>

#include <deque>
#include <vector>

namespace {

// Cycles from which words can be read, or places be written: at most as many wait as the FIFO is deep.
struct Ring {
    std::vector<int64_t> times;
    int64_t first, count;

    void put(int64_t time) {
        int64_t at = first + count++;
        times[at < (int64_t)times.size() ? at : at - (int64_t)times.size()] = time;
    }
    int64_t get() {
        int64_t time = times[first];
        if (++first == (int64_t)times.size()) first = 0;
        count--;
        return time;
    }
};

struct Fifo {
    Ring arrived, free;
};

struct Process {
    const int32_t* gaps;
    const uint16_t* codes;
    int64_t events, latency, restart;
    std::vector<Fifo*> ins, outs;
    std::vector<int32_t> near;
    int64_t* starts;
    int64_t frame, event, start;
    bool entered;  // the gap of the event at hand is counted
    int64_t done;  // events of all frames

    // Go on as far as possible: the port that it waits for (8 and more: an output), or -1 at the end.
    int64_t run(int64_t frames) {
        for (; frame < frames; frame++, event = 0) {
            for (; event < events; event++) {
                if (!entered) {
                    start += gaps[event] + (event == 0 && frame > 0 ? restart : 0);
                    entered = true;
                }
                const int64_t code = codes[event];
                for (size_t i = 0; i < ins.size(); i++)
                    if (code >> i & 1 && ins[i]->arrived.count == 0) return (int64_t)i;
                for (size_t o = 0; o < outs.size(); o++)
                    if (code >> (8 + o) & 1 && outs[o]->free.count == 0) return 8 + (int64_t)o;
                for (size_t i = 0; i < ins.size(); i++)
                    if (code >> i & 1) {
                        int64_t ready = ins[i]->arrived.get();
                        if (ready > start) start = ready;
                    }
                for (size_t o = 0; o < outs.size(); o++)
                    if (code >> (8 + o) & 1) {
                        int64_t ready = outs[o]->free.get() - latency;
                        if (ready > start) start = ready;
                    }
                for (size_t i = 0; i < ins.size(); i++)
                    if (code >> i & 1) ins[i]->free.put(start + 1);
                for (size_t o = 0; o < outs.size(); o++)
                    if (code >> (8 + o) & 1) outs[o]->arrived.put(start + latency + 1);
                starts[done++] = start;
                entered = false;
            }
        }
        return -1;
    }
};

}  // namespace

// Process p has events[p] turns that read or write, with gaps[p] between them and codes[p] of ports; its inputs and
// outputs are FIFOs, in `fifos`, as many as `inputs` and `outputs` say. `starts`: room for the events of all frames, again one process behind the
// other. `waits`: for each process what it waits for in the end (-1: nothing). False if there is no memory for it.
extern "C" int qfx_tokens(int64_t processes, int64_t frames, const int64_t* events, const int64_t* latency, const int64_t* restart,
                          const int32_t* const* gaps, const uint16_t* const* codes, const int64_t* inputs, const int64_t* outputs, const int64_t* fifos,
                          int64_t streams, const int64_t* depths, int64_t* starts, int64_t* waits) {
    try {
        std::vector<Fifo> all(streams);
        for (int64_t s = 0; s < streams; s++) {
            all[s].arrived.times.resize(depths[s]);
            all[s].free.times.assign(depths[s], 0);
            all[s].arrived.first = all[s].arrived.count = all[s].free.first = 0;
            all[s].free.count = depths[s];
        }
        std::vector<Process> found(processes);
        std::vector<int32_t> writer(streams, -1), reader(streams, -1);
        for (int64_t p = 0; p < processes; p++) {
            Process& process = found[p];
            process.gaps = gaps[p], process.codes = codes[p], process.events = events[p], process.starts = starts;
            process.latency = latency[p], process.restart = restart[p];
            process.frame = process.event = process.start = process.done = 0;
            process.entered = false;
            for (int64_t i = 0; i < inputs[p]; i++, fifos++) process.ins.push_back(&all[*fifos]), reader[*fifos] = (int32_t)p;
            for (int64_t o = 0; o < outputs[p]; o++, fifos++) process.outs.push_back(&all[*fifos]), writer[*fifos] = (int32_t)p;
            starts += events[p] * frames;
        }
        for (int64_t s = 0; s < streams; s++) {
            if (writer[s] < 0 || reader[s] < 0) continue;
            found[writer[s]].near.push_back(reader[s]);
            found[reader[s]].near.push_back(writer[s]);
        }
        std::deque<int32_t> ready;
        std::vector<char> queued(processes, 1);
        for (int64_t p = 0; p < processes; p++) ready.push_back((int32_t)p);
        while (!ready.empty()) {
            int32_t p = ready.front();
            ready.pop_front();
            queued[p] = 0;
            const int64_t before = found[p].done;
            waits[p] = found[p].run(frames);
            if (found[p].done == before) continue;
            for (size_t n = 0; n < found[p].near.size(); n++) {
                int32_t other = found[p].near[n];
                if (!queued[other]) queued[other] = 1, ready.push_back(other);
            }
        }
        return 1;
    } catch (...) {
        return 0;
    }
}
