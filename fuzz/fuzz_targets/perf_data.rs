//! Parses any bytes as HotSpot's performance data and reads every counter.
#![no_main]

use kafka_vitals::sys::perf_data::PerfData;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(data) = PerfData::parse(bytes.to_vec()) {
        for (name, _) in data.iter() {
            let _ = (data.long(name), data.text(name));
        }
        let _ = data.safepoint_time();
    }
});
