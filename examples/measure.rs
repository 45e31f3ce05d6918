use std::num::NonZeroUsize;
use cairn_agent::engine::*;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let threads: usize = std::env::args().nth(2).unwrap().parse().unwrap();
    let mut data = std::fs::read(path).unwrap(); data.truncate(std::env::args().nth(3).map_or(usize::MAX, |s| s.parse().unwrap()));
    let rt = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    rt.block_on(async {
        let mut best: Option<measure::Report> = None;
        for round in 0..3 {
        let dir = format!("/dev/shm/cm-{}", std::process::id());
        let mut o = StoreOptions::in_memory("x").unwrap();
        o.location = dir.parse().unwrap();
        o.catalog = cairn_agent::catalog::Location::Directory(format!("{dir}.catalog").into());
        o.options.compute_threads = NonZeroUsize::new(threads).unwrap();
        let store = Store::open_or_create(o, NewRepository::named("default").unwrap()).await.unwrap();
        let repo = store.repository("default").await.unwrap();
        let r = measure::measure(&repo, &data).await.unwrap();
        let _ = round;
        match &mut best { Some(b) => { b.first.best(&r.first); b.again.best(&r.again) }, None => best = Some(r) }
        store.close().await; drop(repo); drop(store);
        std::fs::remove_dir_all(&dir).unwrap(); std::fs::remove_dir_all(format!("{dir}.catalog")).unwrap();
        }
        let r = best.unwrap();
        for m in [&r.first, &r.again] {
            for s in &m.stages { println!("{:30} {:8.3} GB/s {:5.1}%", s.name, m.rate(s.time)/1e9, 100.0*s.time.as_secs_f64()/m.parts().as_secs_f64()); }
            println!("parts {:.3} whole {:.3} = {:.1}%", m.rate(m.parts())/1e9, m.rate(m.whole)/1e9, 100.0*m.parts().as_secs_f64()/m.whole.as_secs_f64());
        }
        println!("chunks {} new {} stored {}", r.chunks, r.new_chunks, r.stored_bytes);
    });
}
